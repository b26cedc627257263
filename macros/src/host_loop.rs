//! `#[host_loop]`: a function becomes a loop that a child runs, and a maker of what starts one with it.
use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, ItemFn, Pat, PatType, ReturnType, Type};

use crate::misuse::{self, Mistakes, Role};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let mut function: ItemFn = syn::parse2(item)?;
    let mut mistakes = Mistakes::default();
    if !options.is_empty() {
        mistakes.at(options, "`#[host_loop]` takes no options");
    }
    if let Some(asyncness) = &function.sig.asyncness {
        mistakes.at(asyncness, "a host's loop blocks its thread: leave out the `async`");
    }
    misuse::check_signature("a host's loop", &function.sig, &mut mistakes);
    misuse::check_types(&function, Role::Host, &mut mistakes);
    if function.sig.inputs.is_empty() {
        mistakes.at(
            &function.sig.ident,
            "the first argument of a host's loop is its guest: `guest: teamster::guest::Guest`",
        );
    }
    mistakes.none_or_err()?;

    let (shown, of_body): (Vec<_>, Vec<_>) =
        std::mem::take(&mut function.attrs).into_iter().partition(|attribute| attribute.path().is_ident("doc"));
    let (conditions, of_body): (Vec<_>, Vec<_>) =
        of_body.into_iter().partition(|attribute| attribute.path().is_ident("cfg"));
    let args: Vec<PatType> = function
        .sig
        .inputs
        .iter()
        .skip(1)
        .filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed.clone()),
            FnArg::Receiver(_) => None,
        })
        .collect();
    let names = args.iter().enumerate().map(|(index, typed)| match &*typed.pat {
        Pat::Ident(named) => named.ident.clone(),
        other => format_ident!("arg_{index}", span = other.span()),
    });
    let names: Vec<_> = names.collect();
    let places: Vec<_> = (0..args.len()).map(|index| format_ident!("__teamster_{index}")).collect();
    let types: Vec<&Type> = args.iter().map(|typed| &*typed.ty).collect();
    let travels = types.iter().map(|ty| quote_spanned!(ty.span()=> ::teamster::__private::travels::<#ty>();));
    let (vis, ident) = (function.vis.clone(), function.sig.ident.clone());
    let returned = match &function.sig.output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let body_name = format_ident!("__teamster_body_{}", ident, span = ident.span());
    let call = quote!(#body_name(__teamster_guest, #(#places),*));
    let call = quote_spanned!(returned=> ::teamster::guest::LoopOutcome::into_failure(#call));
    let mut body = function;
    body.attrs = of_body;
    body.vis = syn::Visibility::Inherited;
    body.sig.ident = body_name.clone();
    Ok(quote! {
        #(#conditions)*
        #[doc(hidden)]
        #[allow(non_camel_case_types, dead_code, reason = "it stands for the function of its name")]
        #vis struct #ident {}

        #(#conditions)*
        const _: () = {
            #[allow(clippy::needless_pass_by_value, reason = "the loop owns its guest")]
            #body

            fn __teamster_path() -> &'static str {
                ::core::any::type_name::<#ident>()
            }

            fn __teamster_run(
                __teamster_guest: ::teamster::guest::Guest,
                __teamster_args: &[u8],
            ) -> ::core::result::Result<(), ::std::string::String> {
                ::teamster::__private::HostLoopRegistration::run_with(
                    __teamster_args,
                    |(#(#places,)*): (#(#types,)*)| #call,
                )
            }

            #[allow(dead_code, reason = "it is for the compiler's eyes")]
            fn __teamster_travels() { #(#travels)* }

            #[::teamster::__private::linkme::distributed_slice(::teamster::__private::HOST_LOOPS)]
            #[linkme(crate = ::teamster::__private::linkme)]
            static __TEAMSTER_ENTRY: ::teamster::__private::HostLoopRegistration =
                ::teamster::__private::HostLoopRegistration::new(__teamster_path, __teamster_run);
        };

        #(#conditions)*
        #(#shown)*
        #[allow(dead_code, reason = "another program may start it")]
        #vis fn #ident(#(#names: #types),*) -> ::teamster::guest::HostLoop {
            ::teamster::__private::host_loop(::core::any::type_name::<#ident>(), &(#(#names,)*))
        }
    })
}
