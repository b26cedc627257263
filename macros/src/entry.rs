//! `#[main]` and `#[test]`: an async function becomes one that the runtime is given.
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, LitBool, LitInt, LitStr, ReturnType};

use crate::misuse::{self, Mistakes};

pub(crate) fn main(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let function: ItemFn = syn::parse2(item)?;
    let mut mistakes = Mistakes::default();
    let options = Options::parse(options, Entry::Main, &mut mistakes);
    check("`main`", &function, &mut mistakes);
    if let Err(error) = mistakes.none_or_err() {
        // With a `main`, the compiler has nothing to say but this.
        let (error, name) = (error.into_compile_error(), &function.sig.ident);
        return Ok(quote!(#error fn #name() {}));
    }
    let runtime = options.runtime();
    let (head, body) = parts(function);
    Ok(quote! {
        #head {
            ::teamster::__private::main(::teamster::__private::MainOptions::new() #runtime, #body)
        }
    })
}

pub(crate) fn test(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let function: ItemFn = syn::parse2(item)?;
    let mut mistakes = Mistakes::default();
    let options = Options::parse(options, Entry::Test, &mut mistakes);
    check("a test", &function, &mut mistakes);
    if let Some(twice) = function.attrs.iter().find(|attribute| attribute.path().is_ident("test")) {
        mistakes.at(twice, "`#[teamster::test]` makes it a test already: leave out `#[test]`");
    }
    mistakes.none_or_err()?;
    let runtime = options.runtime();
    let exclusive = options.exclusive.then(|| quote!(.exclusive()));
    let name = function.sig.ident.to_string();
    let name = name.trim_start_matches("r#");
    let (head, body) = parts(function);
    Ok(quote! {
        #[::core::prelude::v1::test]
        #head {
            ::teamster::__private::test(
                ::core::concat!(::core::module_path!(), "::", #name),
                ::teamster::__private::TestOptions::new() #runtime #exclusive,
                #body,
            )
        }
    })
}

fn check(what: &str, function: &ItemFn, mistakes: &mut Mistakes) {
    misuse::check_function(what, &function.sig, mistakes);
    if !function.sig.inputs.is_empty() {
        mistakes.at(&function.sig.inputs, format!("{what} takes no arguments"));
    }
}

/// The function's head without `async`, and its body as an async closure.
fn parts(function: ItemFn) -> (TokenStream, TokenStream) {
    let ItemFn { attrs, vis, mut sig, block } = function;
    sig.asyncness = None;
    let output = match &sig.output {
        ReturnType::Default => quote!(-> ()),
        declared => quote!(#declared),
    };
    (quote!(#(#attrs)* #vis #sig), quote!(async || #output #block))
}

#[derive(Clone, Copy, PartialEq)]
enum Entry {
    Main,
    Test,
}

#[derive(Default)]
struct Options {
    multi_thread: bool,
    worker_threads: Option<LitInt>,
    exclusive: bool,
    debug: bool,
}

impl Options {
    fn parse(tokens: TokenStream, entry: Entry, mistakes: &mut Mistakes) -> Options {
        let mut options = Options::default();
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("flavor") {
                let flavor: LitStr = meta.value()?.parse()?;
                options.multi_thread = match flavor.value().as_str() {
                    "multi_thread" => true,
                    "current_thread" => false,
                    _ => {
                        let text = "no such flavor: there is \"current_thread\" (the default) and \"multi_thread\"";
                        return Err(Error::new(flavor.span(), text));
                    }
                };
                Ok(())
            } else if meta.path.is_ident("worker_threads") {
                let threads: LitInt = meta.value()?.parse()?;
                if threads.base10_parse::<usize>()? == 0 {
                    return Err(Error::new(threads.span(), "at least one thread has to work"));
                }
                options.worker_threads = Some(threads);
                Ok(())
            } else if entry == Entry::Main && meta.path.is_ident("debug") {
                options.debug = match meta.value() {
                    Ok(value) => value.parse::<LitBool>()?.value,
                    Err(_) => true,
                };
                Ok(())
            } else if entry == Entry::Test && meta.path.is_ident("exclusive") {
                options.exclusive = match meta.value() {
                    Ok(value) => value.parse::<LitBool>()?.value,
                    Err(_) => true,
                };
                Ok(())
            } else {
                let known = match entry {
                    Entry::Main => "`debug`, `flavor` and `worker_threads`",
                    Entry::Test => "`flavor`, `worker_threads` and `exclusive`",
                };
                Err(misuse::unknown_option(&meta.path, known))
            }
        });
        if let Err(error) = syn::parse::Parser::parse2(parser, tokens) {
            mistakes.add(error);
        }
        if let (Some(threads), false) = (&options.worker_threads, options.multi_thread) {
            mistakes.at(threads, "`worker_threads` goes with `flavor = \"multi_thread\"`");
        }
        options
    }

    /// The calls that tell the options of the runtime.
    fn runtime(&self) -> TokenStream {
        let flavor = self.multi_thread.then(|| quote!(.multi_thread()));
        let threads = self.worker_threads.as_ref().map(|threads| quote!(.worker_threads(#threads)));
        let debug = self.debug.then(|| quote!(.debug()));
        quote!(#flavor #threads #debug)
    }
}
