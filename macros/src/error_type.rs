//! `#[error]`: an error type is entered among those that cross as values.
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Error, Item};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !options.is_empty() {
        return Err(Error::new_spanned(options, "`#[teamster::error]` takes no options"));
    }
    let item: Item = syn::parse2(item)?;
    let (ident, generics, attrs) = match &item {
        Item::Struct(item) => (&item.ident, &item.generics, &item.attrs),
        Item::Enum(item) => (&item.ident, &item.generics, &item.attrs),
        other => {
            return Err(Error::new_spanned(other, "`#[teamster::error]` goes on an error type: a struct or an enum"));
        }
    };
    if !generics.params.is_empty() {
        return Err(Error::new_spanned(
            &generics.params,
            "an error type that crosses as a value can't be generic: it is known by its name",
        ));
    }
    let conditions = attrs.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    let entry = quote_spanned! {ident.span()=>
        static __TEAMSTER_ENTRY: ::teamster::__private::ErrorRegistration =
            ::teamster::__private::register_error::<#ident>();
    };
    Ok(quote! {
        #item

        #(#conditions)*
        const _: () = {
            #[::teamster::__private::linkme::distributed_slice(::teamster::__private::ERRORS)]
            #[linkme(crate = ::teamster::__private::linkme)]
            #entry
        };
    })
}
