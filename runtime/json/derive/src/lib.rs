//! `#[derive(FromJson, ToJson)]`: tables of a struct's members for `punnet-json`.
//!
//! What stands in `#[json(...)]`, of a type: `rename_all` (camelCase, PascalCase, kebab-case, lowercase), `deny_unknown_fields`, and `default`: what is
//! missing is as in the type's `Default`. Of a member: `rename`, `default` (it may be missing), `null_is_default`, `skip_if_empty` (not written when
//! `ToJson::is_empty` says so) and `skip_writing`. Anything else is an error of the compilation. What serde's derives have in common with these may stand
//! in `#[serde(...)]`, for a type that has both; what serde alone has is passed over there.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::{Data, DeriveInput, Fields, LitStr, Result, Type};

/// Reads a struct from an object, or an enum of plain words from a string.
#[proc_macro_derive(FromJson, attributes(json, serde))]
pub fn from_json(input: TokenStream) -> TokenStream {
    expand(input, reading)
}

/// Writes a struct as an object, or an enum of plain words as a string.
#[proc_macro_derive(ToJson, attributes(json, serde))]
pub fn to_json(input: TokenStream) -> TokenStream {
    expand(input, writing)
}

fn expand(input: TokenStream, with: fn(&Described) -> Tokens) -> TokenStream {
    syn::parse(input)
        .and_then(|input| Described::of(&input).map(|described| with(&described)))
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

/// A type as its attributes describe it.
struct Described {
    name: syn::Ident,
    generics: syn::Generics,
    /// Unknown members are errors.
    closed: bool,
    /// What is missing is as in the type's `Default`.
    default: bool,
    /// Members of a struct, or the words of an enum.
    parts: Vec<Part>,
    /// The word that `#[default]` marks, else the first.
    default_word: usize,
    is_enum: bool,
}

struct Part {
    ident: syn::Ident,
    key: String,
    required: bool,
    null_is_default: bool,
    skipped_if_empty: bool,
    never_written: bool,
}

impl Described {
    fn of(input: &DeriveInput) -> Result<Self> {
        let (mut rename_all, mut closed, mut default) = (None, false, false);
        attributes(&input.attrs, |meta| {
            if meta.path.is_ident("rename_all") {
                rename_all = Some(meta.value()?.parse::<LitStr>()?);
            } else if meta.path.is_ident("deny_unknown_fields") {
                closed = true;
            } else if meta.path.is_ident("default") {
                default = true;
            } else {
                return Err(meta.error("punnet-json does not know this attribute"));
            }
            Ok(())
        })?;
        let renamed = |ident: &syn::Ident| renamed(&ident.to_string(), rename_all.as_ref());
        let parts = match &input.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) => fields
                    .named
                    .iter()
                    .map(|field| {
                        let ident = field.ident.clone().expect("named fields have names");
                        let key = renamed(&ident)?;
                        part(&field.attrs, ident, key, default || is_option(&field.ty))
                    })
                    .collect::<Result<Vec<_>>>()?,
                _ => return Err(syn::Error::new_spanned(input, "only structs with named fields")),
            },
            Data::Enum(data) => data
                .variants
                .iter()
                .map(|variant| match variant.fields {
                    Fields::Unit => part(
                        &variant.attrs,
                        variant.ident.clone(),
                        renamed(&variant.ident)?,
                        true,
                    ),
                    _ => Err(syn::Error::new_spanned(variant, "only variants without fields")),
                })
                .collect::<Result<_>>()?,
            Data::Union(_) => return Err(syn::Error::new_spanned(input, "no unions")),
        };
        if parts.len() > 64 {
            return Err(syn::Error::new_spanned(input, "at most 64 members"));
        }
        let default_word = match &input.data {
            Data::Enum(data) => data
                .variants
                .iter()
                .position(|variant| variant.attrs.iter().any(|attr| attr.path().is_ident("default"))),
            _ => None,
        };
        Ok(Self {
            default_word: default_word.unwrap_or(0),
            name: input.ident.clone(),
            generics: input.generics.clone(),
            closed,
            default,
            parts,
            is_enum: matches!(input.data, Data::Enum(_)),
        })
    }

    fn idents(&self) -> impl Iterator<Item = &syn::Ident> {
        self.parts.iter().map(|part| &part.ident)
    }

    /// The members, for `which` kind of thing.
    fn shape(&self) -> Tokens {
        let expected = format!("struct {}", self.name);
        let closed = self.closed;
        let fields = self.parts.iter().map(|part| {
            let Part {
                key,
                required,
                null_is_default,
                skipped_if_empty,
                never_written,
                ..
            } = part;
            quote!(::punnet_json::Field::new(#key, #required, #null_is_default, #skipped_if_empty, #never_written))
        });
        quote! {
            static SHAPE: ::punnet_json::Shape = ::punnet_json::Shape {
                expected: #expected,
                closed: #closed,
                fields: &[#(#fields),*],
            };
            &SHAPE
        }
    }

    fn words(&self) -> Tokens {
        let keys = self.parts.iter().map(|part| &part.key);
        quote!(static WORDS: &[&str] = &[#(#keys),*];)
    }
}

/// Gives each word of our attributes, and of serde's those that both have.
fn attributes(attrs: &[syn::Attribute], mut take: impl FnMut(ParseNestedMeta) -> Result<()>) -> Result<()> {
    const COMMON: [&str; 4] = ["default", "deny_unknown_fields", "rename", "rename_all"];
    for attr in attrs {
        if attr.path().is_ident("json") {
            attr.parse_nested_meta(&mut take)?;
        } else if attr.path().is_ident("serde") {
            attr.parse_nested_meta(|meta| {
                if COMMON.iter().any(|word| meta.path.is_ident(word)) {
                    return take(meta);
                }
                if meta.input.peek(syn::Token![=]) {
                    meta.value()?.parse::<syn::Expr>()?;
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn part(attrs: &[syn::Attribute], ident: syn::Ident, key: String, optional: bool) -> Result<Part> {
    let mut part = Part {
        ident,
        key,
        required: !optional,
        null_is_default: false,
        skipped_if_empty: false,
        never_written: false,
    };
    attributes(attrs, |meta| {
        if meta.path.is_ident("rename") {
            part.key = meta.value()?.parse::<LitStr>()?.value();
        } else if meta.path.is_ident("default") {
            part.required = false;
        } else if meta.path.is_ident("skip_writing") {
            part.never_written = true;
        } else if meta.path.is_ident("skip_if_empty") {
            part.skipped_if_empty = true;
        } else if meta.path.is_ident("null_is_default") {
            part.null_is_default = true;
        } else {
            return Err(meta.error("punnet-json does not know this attribute"));
        }
        Ok(())
    })?;
    Ok(part)
}

fn is_option(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}

fn renamed(ident: &str, rule: Option<&LitStr>) -> Result<String> {
    let ident = ident.strip_prefix("r#").unwrap_or(ident);
    let Some(rule) = rule else {
        return Ok(ident.to_owned());
    };
    // Words of a snake_case field or of a PascalCase variant.
    let mut words: Vec<String> = Vec::new();
    for part in ident.split('_') {
        let mut begins = true;
        for letter in part.chars() {
            if begins || letter.is_ascii_uppercase() {
                words.push(String::new());
            }
            begins = false;
            words
                .last_mut()
                .expect("one was pushed")
                .push(letter.to_ascii_lowercase());
        }
    }
    let capital = |word: &String| word[..1].to_ascii_uppercase() + &word[1..];
    Ok(match rule.value().as_str() {
        "camelCase" => words[0].clone() + &words[1..].iter().map(capital).collect::<String>(),
        "PascalCase" => words.iter().map(capital).collect(),
        "kebab-case" => words.join("-"),
        "lowercase" => words.concat(),
        _ => {
            return Err(syn::Error::new_spanned(
                rule,
                "punnet-json does not know this rule",
            ));
        }
    })
}

fn reading(of: &Described) -> Tokens {
    let name = &of.name;
    let idents: Vec<_> = of.idents().collect();
    let index = 0..idents.len();
    if of.is_enum {
        let words = of.words();
        let Some((last, others)) = idents.split_last() else {
            return quote!(::std::compile_error!("an enum without variants"););
        };
        let index = 0..others.len();
        let first = idents[of.default_word];
        return quote! {
            #[automatically_derived]
            impl ::punnet_json::FromJson for #name {
                fn empty() -> Self {
                    Self::#first
                }
                fn read(&mut self, reader: &mut ::punnet_json::Reader<'_>) -> ::std::result::Result<(), ::punnet_json::Error> {
                    #words
                    *self = match reader.word(WORDS)? {
                        #(#index => Self::#others,)*
                        _ => Self::#last,
                    };
                    Ok(())
                }
            }
        };
    }
    let empty = if of.default {
        quote!(<Self as ::std::default::Default>::default())
    } else {
        quote!(Self { #(#idents: ::punnet_json::FromJson::empty()),* })
    };
    let shape = of.shape();
    let (impl_generics, type_generics, clause) = of.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::punnet_json::FromJson for #name #type_generics #clause {
            fn empty() -> Self {
                #empty
            }
            fn read(&mut self, reader: &mut ::punnet_json::Reader<'_>) -> ::std::result::Result<(), ::punnet_json::Error> {
                reader.object(self)
            }
        }
        #[automatically_derived]
        impl #impl_generics ::punnet_json::Object for #name #type_generics #clause {
            fn shape(&self) -> &'static ::punnet_json::Shape {
                #shape
            }
            fn member(&mut self, index: usize) -> &mut dyn ::punnet_json::FromJson {
                match index {
                    #(#index => &mut self.#idents,)*
                    _ => ::punnet_json::no_such_member(),
                }
            }
        }
    }
}

fn writing(of: &Described) -> Tokens {
    let name = &of.name;
    let idents: Vec<_> = of.idents().collect();
    let index = 0..idents.len();
    let (impl_generics, type_generics, clause) = of.generics.split_for_impl();
    if of.is_enum {
        let keys = of.parts.iter().map(|part| &part.key);
        return quote! {
            #[automatically_derived]
            impl ::punnet_json::ToJson for #name {
                fn write(&self, writer: &mut ::punnet_json::Writer) {
                    writer.string(match self {
                        #(Self::#idents => #keys,)*
                    });
                }
            }
        };
    }
    let shape = of.shape();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::punnet_json::ToJson for #name #type_generics #clause {
            fn write(&self, writer: &mut ::punnet_json::Writer) {
                writer.object(self);
            }
        }
        #[automatically_derived]
        impl #impl_generics ::punnet_json::Members for #name #type_generics #clause {
            fn shape(&self) -> &'static ::punnet_json::Shape {
                #shape
            }
            fn member(&self, index: usize) -> &dyn ::punnet_json::ToJson {
                match index {
                    #(#index => &self.#idents,)*
                    _ => &(),
                }
            }
        }
    }
}
