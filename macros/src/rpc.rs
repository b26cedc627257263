//! `#[rpc]` and `#[context]`: a function becomes a type that names it, a registration, and a maker of calls.
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, ItemFn, LitStr, Meta, Pat, PatType, ReturnType, Type};

use crate::misuse::{self, Mistakes, Role};

/// Which attribute stands on the function.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Asked {
    Rpc,
    Context,
    /// A job for worker processes: it may be sync.
    Work,
}

/// What a dialog with the function is.
enum Kind {
    /// One call, one result.
    Rpc,
    /// A linked task, whose first argument is of this type.
    Context(Box<Type>),
    /// A call whose results are a stream of this type.
    Stream(Box<Type>),
}

pub(crate) fn expand(asked: Asked, options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let (mut function, place) = read(asked, item)?;
    let mut mistakes = Mistakes::default();
    let name = path_option(options).unwrap_or_else(|error| {
        mistakes.add(error);
        None
    });
    if place == Place::Elsewhere && name.is_none() {
        let text = "a function without a body stands for one of another program: say what it is called there, \
                    `name = \"module::function\"`";
        mistakes.at(&function.sig, text);
    }
    match asked {
        Asked::Work => misuse::check_signature("a job", &function.sig, &mut mistakes),
        Asked::Rpc | Asked::Context => misuse::check_function("an endpoint", &function.sig, &mut mistakes),
    }
    let kind = kind_of(asked, &function, &mut mistakes);
    let role = match kind {
        Kind::Rpc => Role::Call,
        Kind::Context(_) => Role::Context,
        Kind::Stream(_) => Role::Stream,
    };
    misuse::check_types(&function, role, &mut mistakes);
    let own = usize::from(matches!(kind, Kind::Context(_)));
    if function.sig.inputs.len() > MAX_ARGS + own {
        let inputs = &function.sig.inputs;
        mistakes.at(inputs, format!("an endpoint has at most {MAX_ARGS} arguments: put them into a struct"));
    }
    mistakes.none_or_err()?;

    let attributes = Attributes::sort(std::mem::take(&mut function.attrs), &function.sig.ident);
    let args = arguments(&function, own);
    let vis = &function.vis;
    let ident = &function.sig.ident;
    let shown = &attributes.shown;
    let conditions = &attributes.conditions;
    let call_args = args.iter().map(|Argument { name, ty, .. }| quote!(#name: #ty));
    let names: Vec<&Ident> = args.iter().map(|argument| &argument.name).collect();
    let endpoint = endpoint(&kind, place, &function, &args, name, attributes.of_body);
    let call = match kind {
        Kind::Rpc => quote!(::teamster::Call),
        Kind::Context(_) => quote!(::teamster::ContextCall),
        Kind::Stream(_) => quote!(::teamster::StreamCall),
    };
    Ok(quote! {
        #(#conditions)*
        #[doc(hidden)]
        #[allow(non_camel_case_types, dead_code, reason = "it stands for the function of its name")]
        #vis struct #ident {}

        #(#conditions)*
        const _: () = { #endpoint };

        #(#conditions)*
        #(#shown)*
        #[allow(dead_code, reason = "another program may call it")]
        #vis fn #ident(#(#call_args),*) -> #call<#ident> {
            #call::new((#(#names,)*))
        }
    })
}

/// Where the function is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Here,
    /// It has no body: another program has.
    Elsewhere,
}

fn read(asked: Asked, item: TokenStream) -> syn::Result<(ItemFn, Place)> {
    let failed = match syn::parse2(item.clone()) {
        Ok(function) => return Ok((function, Place::Here)),
        Err(failed) => failed,
    };
    match syn::parse2::<syn::ForeignItemFn>(item) {
        Ok(declared) if asked != Asked::Work => {
            let syn::ForeignItemFn { attrs, vis, sig, .. } = declared;
            Ok((ItemFn { attrs, vis, sig, block: syn::parse_quote!({}) }, Place::Elsewhere))
        }
        _ => Err(failed),
    }
}

fn kind_of(asked: Asked, function: &ItemFn, mistakes: &mut Mistakes) -> Kind {
    match asked {
        Asked::Rpc => match streamed(function) {
            Some(item) => Kind::Stream(Box::new(item)),
            None => Kind::Rpc,
        },
        Asked::Work => Kind::Rpc,
        Asked::Context => match function.sig.inputs.first() {
            Some(FnArg::Typed(first)) => Kind::Context(first.ty.clone()),
            Some(FnArg::Receiver(_)) => Kind::Rpc, // that mistake is told already
            None => {
                mistakes.at(
                    &function.sig.ident,
                    "the first argument of a context is its own side of it: `ctx: teamster::Context<Started, In, Out>`",
                );
                Kind::Rpc
            }
        },
    }
}

/// The `T` of a function that returns `impl Stream<Item = T>`.
fn streamed(function: &ItemFn) -> Option<Type> {
    let ReturnType::Type(_, returned) = &function.sig.output else { return None };
    let Type::ImplTrait(some) = &**returned else { return None };
    some.bounds.iter().find_map(|bound| {
        let syn::TypeParamBound::Trait(bound) = bound else { return None };
        let last = bound.path.segments.last().filter(|last| last.ident == "Stream")?;
        let syn::PathArguments::AngleBracketed(args) = &last.arguments else { return None };
        args.args.iter().find_map(|arg| match arg {
            syn::GenericArgument::AssocType(item) if item.ident == "Item" => Some(item.ty.clone()),
            _ => None,
        })
    })
}

/// serde's longest tuple.
const MAX_ARGS: usize = 16;

/// `name = "…"`.
fn path_option(options: TokenStream) -> syn::Result<Option<LitStr>> {
    let mut name = None;
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("name") {
            return Err(misuse::unknown_option(&meta.path, "`name = \"…\"`"));
        }
        let value: LitStr = meta.value()?.parse()?;
        if value.value().is_empty() {
            return Err(syn::Error::new(value.span(), "an endpoint's name can't be empty"));
        }
        name = Some(value);
        Ok(())
    });
    syn::parse::Parser::parse2(parser, options)?;
    Ok(name)
}

/// Which attribute belongs to which of the parts.
#[derive(Default)]
struct Attributes {
    /// `#[cfg]`: to all.
    conditions: Vec<Attribute>,
    /// To the function that users call.
    shown: Vec<TokenStream>,
    /// To the function that runs.
    of_body: Vec<Attribute>,
}

impl Attributes {
    fn sort(attributes: Vec<Attribute>, function: &Ident) -> Self {
        let mut sorted = Attributes::default();
        for attribute in attributes {
            let path = attribute.path();
            if path.is_ident("cfg") {
                sorted.conditions.push(attribute);
            } else if path.is_ident("doc") || path.is_ident("deprecated") || path.is_ident("must_use") {
                sorted.shown.push(quote!(#attribute));
            } else if path.is_ident("allow") || path.is_ident("expect") {
                // What the user expects of the body needs not be true of the caller's function.
                if let Meta::List(list) = &attribute.meta {
                    let lints = &list.tokens;
                    sorted.shown.push(quote!(#[allow(#lints)]));
                }
                sorted.of_body.push(attribute);
            } else if path.segments.last().is_some_and(|segment| segment.ident == "instrument") {
                sorted.of_body.push(named_span(attribute, function));
            } else {
                sorted.of_body.push(attribute);
            }
        }
        sorted
    }
}

/// `#[instrument]` calls its span as the function is called, which is not the user's name here.
fn named_span(mut attribute: Attribute, function: &Ident) -> Attribute {
    let name = function.to_string();
    let name = name.trim_start_matches("r#");
    let path = attribute.path().clone();
    let options = match &attribute.meta {
        Meta::List(list) => list.tokens.clone(),
        Meta::Path(_) | Meta::NameValue(_) => TokenStream::new(),
    };
    let is_name = |token: TokenTree| matches!(token, TokenTree::Ident(ident) if ident == "name");
    if !options.clone().into_iter().any(is_name) {
        attribute.meta = syn::parse_quote!(#path(name = #name, #options));
    }
    attribute
}

struct Argument {
    name: Ident,
    text: String,
    ty: Type,
}

/// Those that travel: all but the first `own` ones.
fn arguments(function: &ItemFn, own: usize) -> Vec<Argument> {
    let typed = function.sig.inputs.iter().skip(own).filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    typed.enumerate().map(|(index, typed)| argument(index, typed)).collect()
}

/// A pattern other than a name gets a name by its place; it is taken apart in the body.
fn argument(index: usize, typed: &PatType) -> Argument {
    let name = match &*typed.pat {
        Pat::Ident(named) => named.ident.clone(),
        other => format_ident!("arg_{index}", span = other.span()),
    };
    let text = name.to_string().trim_start_matches("r#").to_owned();
    Argument { name, text, ty: (*typed.ty).clone() }
}

/// What nobody but the runtime sees: the trait, the function itself, the registration.
fn endpoint(
    kind: &Kind,
    place: Place,
    function: &ItemFn,
    args: &[Argument],
    name: Option<LitStr>,
    attributes: Vec<Attribute>,
) -> TokenStream {
    let ident = &function.sig.ident;
    let name = name
        .map(|name| quote!(const NAME: ::core::option::Option<&'static str> = ::core::option::Option::Some(#name);));
    let location = location(ident.span());
    let types: Vec<&Type> = args.iter().map(|argument| &argument.ty).collect();
    let infos = args.iter().map(|Argument { text, ty, .. }| quote!(::teamster::__private::Arg::new::<#ty>(#text)));
    let places: Vec<Ident> = (0..args.len()).map(|index| format_ident!("__teamster_{index}")).collect();

    let declared: Type = match &function.sig.output {
        ReturnType::Default => syn::parse_quote!(()),
        ReturnType::Type(_, ty) => (**ty).clone(),
    };
    let at = declared.span();
    let body_name = body_name(function);
    let call = match kind {
        Kind::Context(ctx) => {
            let ctx = quote_spanned!(ctx.span()=> __teamster_ctx);
            quote!(#body_name(#ctx, #(#places),*).await)
        }
        Kind::Rpc if function.sig.asyncness.is_none() => quote!(#body_name(#(#places),*)),
        Kind::Rpc | Kind::Stream(_) => quote!(#body_name(#(#places),*).await),
    };
    let (output, run) = if place == Place::Elsewhere {
        let output = match kind {
            Kind::Stream(_) => quote!(()),
            _ if is_result(&declared) => quote_spanned!(at=> <#declared as ::teamster::Fallible>::Ok),
            _ => quote!(#declared),
        };
        (output, quote!(::core::result::Result::Err(::teamster::__private::elsewhere())))
    } else if matches!(kind, Kind::Stream(_)) {
        let feed = quote!(::teamster::__private::feed(__teamster_ctx, #call).await);
        (quote!(()), quote!(#feed.map_err(::teamster::__private::Failure::from_stream)))
    } else if is_result(&declared) {
        let run = quote_spanned! {at=>
            match ::teamster::Fallible::into_result(#call) {
                ::core::result::Result::Ok(__teamster_value) => ::core::result::Result::Ok(__teamster_value),
                ::core::result::Result::Err(__teamster_error) => {
                    #[allow(unused_imports, reason = "one of them is the one that fits")]
                    use ::teamster::__private::{ExactKind as _, StdKind as _, TextKind as _};
                    let __teamster_kind = (&&&::teamster::__private::probe(&__teamster_error)).teamster_kind();
                    ::core::result::Result::Err(
                        __teamster_kind.failure(__teamster_error).or_at(<#ident as ::teamster::Function>::LOCATION),
                    )
                }
            }
        };
        (quote_spanned!(at=> <#declared as ::teamster::Fallible>::Ok), run)
    } else {
        (quote!(#declared), quote!(::core::result::Result::Ok(#call)))
    };
    let body = (place == Place::Here).then(|| body(function, attributes));
    // Asked of each type by itself, at the user's own tokens.
    let own: Vec<(Span, TokenStream)> = match kind {
        Kind::Rpc => vec![],
        Kind::Context(ctx) => ["Started", "In", "Out"]
            .iter()
            .map(|part| {
                let part = Ident::new(part, ctx.span());
                (ctx.span(), quote_spanned!(ctx.span()=> <#ctx as ::teamster::__private::ContextTypes>::#part))
            })
            .collect(),
        Kind::Stream(item) => vec![(item.span(), quote!(#item))],
    };
    let travels = types.iter().copied().map(|ty| (ty.span(), quote!(#ty))).chain([(at, output.clone())]).chain(own);
    let travels = travels.map(|(span, ty)| quote_spanned!(span=> ::teamster::__private::travels::<#ty>();));
    let inputs = args.first().map_or(ident.span(), |argument| argument.name.span());
    let tuple = quote_spanned!(inputs=> (#(#types,)*));
    let future = quote! {
        impl ::core::future::Future<
            Output = ::core::result::Result<Self::Output, ::teamster::__private::Failure>,
        > + ::core::marker::Send
    };
    let taken = match place {
        Place::Here => quote!(let (#(#places,)*) = __teamster_args;),
        Place::Elsewhere => quote!(::core::mem::drop(__teamster_args);),
    };
    let (invoke, register) = match kind {
        Kind::Rpc => (
            quote! {
                impl ::teamster::Endpoint for #ident {
                    fn invoke(__teamster_args: Self::Args) -> #future {
                        async move { #taken #run }
                    }
                }
            },
            quote!(register),
        ),
        Kind::Context(ctx) => {
            // What is wrong with a type of it is wrong where the user wrote it.
            let types = quote_spanned! {ctx.span()=>
                type Started = <#ctx as ::teamster::__private::ContextTypes>::Started;
                type In = <#ctx as ::teamster::__private::ContextTypes>::In;
                type Out = <#ctx as ::teamster::__private::ContextTypes>::Out;
            };
            let own_side = quote_spanned! {ctx.span()=>
                __teamster_ctx: ::teamster::Context<Self::Started, Self::In, Self::Out>
            };
            let context = quote! {
                impl ::teamster::ContextEndpoint for #ident {
                    #types

                    fn invoke(#own_side, __teamster_args: Self::Args) -> #future {
                        async move { #taken #run }
                    }
                }
            };
            (context, quote!(register_context))
        }
        Kind::Stream(item) => (
            quote! {
                impl ::teamster::ContextEndpoint for #ident {
                    type Started = ();
                    type In = ();
                    type Out = #item;

                    fn invoke(
                        __teamster_ctx: ::teamster::Context<(), (), #item>,
                        __teamster_args: Self::Args,
                    ) -> #future {
                        async move { #taken #run }
                    }
                }
                impl ::teamster::StreamEndpoint for #ident {}
            },
            quote!(register_context),
        ),
    };
    // Its bounds are the user's own tokens, whoever has the body.
    let streams = (place == Place::Elsewhere && matches!(kind, Kind::Stream(_))).then(|| {
        quote! {
            #[allow(dead_code, reason = "it is for the compiler's eyes")]
            fn __teamster_streams(_: #declared) {}
        }
    });
    let registered = (place == Place::Here).then(|| {
        quote! {
            #[::teamster::__private::linkme::distributed_slice(::teamster::__private::ENDPOINTS)]
            #[linkme(crate = ::teamster::__private::linkme)]
            static __TEAMSTER_ENTRY: ::teamster::__private::Registration = ::teamster::__private::#register::<#ident>();
        }
    });
    quote! {
        #[allow(clippy::unused_unit, clippy::ignored_unit_patterns, reason = "the types are the user's")]
        impl ::teamster::Function for #ident {
            type Args = #tuple;
            type Output = #output;
            #name
            const LOCATION: &'static str = #location;
            const ARGS: &'static [::teamster::__private::Arg] = &[#(#infos),*];

            fn unencodable(__teamster_args: &Self::Args) -> ::core::option::Option<usize> {
                let (#(#places,)*) = __teamster_args;
                let __teamster_encode: &[bool] = &[#(::teamster::__private::encodes(#places)),*];
                __teamster_encode.iter().position(|__teamster_one| !__teamster_one)
            }

            fn layouts() -> ::core::option::Option<&'static ::teamster::__private::Layouts> {
                static LAYOUTS: ::teamster::__private::Layouts = ::teamster::__private::Layouts::new();
                ::core::option::Option::Some(&LAYOUTS)
            }
        }

        #[allow(clippy::unused_unit, clippy::ignored_unit_patterns, reason = "the types are the user's")]
        #invoke

        #body

        #[allow(dead_code, reason = "it is for the compiler's eyes")]
        fn __teamster_travels() { #(#travels)* }

        #streams

        #registered
    }
}

/// The user's function, under a name that nothing in it can mean.
fn body(function: &ItemFn, attributes: Vec<Attribute>) -> ItemFn {
    let mut body = function.clone();
    body.attrs = attributes;
    body.vis = syn::Visibility::Inherited;
    body.sig.ident = body_name(function);
    body
}

/// A traceback shows it, so it ends like the user's own.
fn body_name(function: &ItemFn) -> Ident {
    format_ident!("__teamster_body_{}", function.sig.ident, span = function.sig.ident.span())
}

fn is_result(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == "Result"),
        Type::Paren(inner) => is_result(&inner.elem),
        Type::Group(inner) => is_result(&inner.elem),
        _ => false,
    }
}

/// `file:line:column` of the function's name. (`line!()` would be that of the attribute.)
fn location(span: Span) -> String {
    let span = span.unwrap();
    format!("{}:{}:{}", span.file(), span.line(), span.column())
}
