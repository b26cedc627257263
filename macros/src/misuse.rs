//! What can't be an endpoint, and how is that said at the user's own tokens?
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Error, ItemFn, Lifetime, ReturnType, Signature, Type, TypeImplTrait, TypeReference};

/// Gathers mistakes, so that one run of the compiler tells all of them.
#[derive(Default)]
pub(crate) struct Mistakes(Option<Error>);

impl Mistakes {
    pub(crate) fn at(&mut self, tokens: impl quote::ToTokens, text: impl std::fmt::Display) {
        self.add(Error::new_spanned(tokens, text));
    }

    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn none_or_err(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// What no macro here can take: `what` is "an endpoint", "a test".
pub(crate) fn check_function(what: &str, signature: &Signature, mistakes: &mut Mistakes) {
    if signature.asyncness.is_none() {
        let name = &signature.ident;
        mistakes.at(signature.fn_token, format!("{what} has to be async: write `async fn {name}`"));
    }
    check_signature(what, signature, mistakes);
}

/// The same for what may be async or not.
pub(crate) fn check_signature(what: &str, signature: &Signature, mistakes: &mut Mistakes) {
    if let Some(unsafety) = &signature.unsafety {
        mistakes.at(unsafety, format!("{what} can't be unsafe: nobody can keep its conditions from far away"));
    }
    if let Some(constness) = &signature.constness {
        mistakes.at(constness, format!("{what} can't be const"));
    }
    if let Some(abi) = &signature.abi {
        mistakes.at(abi, format!("{what} is a Rust function: leave out the `extern`"));
    }
    if let Some(variadic) = &signature.variadic {
        mistakes.at(variadic, format!("{what} has a fixed number of arguments"));
    }
    let generics = &signature.generics;
    if !generics.params.is_empty() {
        mistakes.at(
            &generics.params,
            format!("{what} can't be generic: it is called by its name, so every type in it has to be fixed"),
        );
    } else if let Some(clause) = &generics.where_clause {
        mistakes.at(clause, format!("{what} can't be generic: leave out the `where`"));
    }
}

/// What a function is to its callers.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    Call,
    /// The first argument is its own side.
    Context,
    /// The result is a stream, which does not travel itself.
    Stream,
    /// A host's loop: the first argument is its guest, and the result stays where it is.
    Host,
}

/// Types that can't travel, as far as the tokens show it.
pub(crate) fn check_types(function: &ItemFn, role: Role, mistakes: &mut Mistakes) {
    for (index, input) in function.sig.inputs.iter().enumerate() {
        match input {
            syn::FnArg::Typed(own) if role == Role::Context && index == 0 => check_own_side(&own.ty, mistakes),
            syn::FnArg::Typed(_guest) if role == Role::Host && index == 0 => {}
            syn::FnArg::Receiver(receiver) => mistakes.at(
                receiver,
                "an endpoint is a free function: in another process there is no `self`; pass what it needs as arguments",
            ),
            syn::FnArg::Typed(argument) => check_type(&argument.ty, Place::Argument, mistakes),
        }
    }
    if let ReturnType::Type(_, ty) = &function.sig.output
        && !matches!(role, Role::Stream | Role::Host)
    {
        check_type(ty, Place::Result, mistakes);
    }
}

fn check_own_side(ty: &Type, mistakes: &mut Mistakes) {
    match ty {
        Type::Reference(reference) => {
            mistakes.at(reference, "its own side is handed over to a context: write `ctx: Context<…>`, not borrowed");
        }
        owned => check_type(owned, Place::Item, mistakes),
    }
}

#[derive(Clone, Copy)]
enum Place {
    Argument,
    /// Or the first word.
    Item,
    Result,
}

fn check_type(ty: &Type, place: Place, mistakes: &mut Mistakes) {
    Borrows { place, mistakes }.visit_type(ty);
}

struct Borrows<'a> {
    place: Place,
    mistakes: &'a mut Mistakes,
}

impl<'ast> Visit<'ast> for Borrows<'_> {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        // A text may be an error type: `Result<(), &'static str>`. It crosses as text.
        let is_static = reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static");
        let (what, verb) = match self.place {
            Place::Result if is_static => return,
            Place::Argument => ("an argument", "take"),
            Place::Item => ("what a context says", "send"),
            Place::Result => ("a result", "return"),
        };
        self.mistakes.at(
            reference,
            format!(
                "{what} travels to another process, so it can't be borrowed: {verb} `String` for `&str`, \
                 `Vec<T>` for `&[T]`, `T` for `&T`"
            ),
        );
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" {
            self.mistakes.at(lifetime, "what travels to another process can't be borrowed: use an owned type");
        }
    }

    fn visit_type_impl_trait(&mut self, some: &'ast TypeImplTrait) {
        self.mistakes.at(some, "`impl Trait` has no name that another process could know: write the type itself");
    }

    fn visit_type_bare_fn(&mut self, function: &'ast syn::TypeBareFn) {
        self.mistakes.at(function, "a function can't travel to another process: name it by a value");
    }

    fn visit_type(&mut self, ty: &'ast Type) {
        visit::visit_type(self, ty);
    }
}

/// An option that the macro does not know.
pub(crate) fn unknown_option(path: &syn::Path, known: &str) -> Error {
    let name = path.get_ident().map(ToString::to_string).unwrap_or_else(|| "this".to_owned());
    Error::new(path.span(), format!("no such option: `{name}`; there is {known}"))
}
