//! Jinja as transformers sets it up.

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value, filters};

use super::{date, generation, json, methods, percent, python};

/// Returns an environment in which now is `date`.
pub(super) fn environment(date: DateTime) -> Environment<'static> {
    let mut environment = Environment::new();
    minijinja_contrib::add_to_environment(&mut environment);
    let blocks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(blocks.unwrap_or_default());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out: &mut Output, _: &mut State, value: &Value| {
        out.write_str(&if value.is_undefined() { String::new() } else { python::text(value) }).map_err(Error::from)
    });
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| date::strftime(date, format));
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(generation::FILTER, |text: &str| generation::mark(text));
    environment.add_filter(percent::FILTER, percent::percent);
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment
        .add_test("sequence", |value: &Value| !matches!(value.kind(), ValueKind::Iterable) && is_iterable(value));
    environment.add_test("iterable", is_iterable);
    environment
}

/// Texts and dictionaries too, and what is undefined.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined
    )
}

/// Jinja's filter `default`, with `boolean` also by name.
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let named = |name: &str| options.get::<Option<Value>>(name);
    let other = other.map_or_else(|| named("default_value"), |other| Ok(Some(other)))?.unwrap_or_else(|| "".into());
    let boolean = boolean.map_or_else(|| named("boolean"), |boolean| Ok(Some(boolean.into())))?;
    options.assert_all_used()?;
    let is_missing = value.is_undefined() || boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true();
    Ok(if is_missing { other } else { value.clone() })
}

/// Jinja's filter `int`: 0 of what is no number, if no other default is given.
fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = default.map_or_else(|| options.get::<Option<Value>>("default"), |default| Ok(Some(default)))?;
    filters::int(state, value, default.or(Some(0.into())), base, options)
}

/// Jinja's filter `float`: 0.0 of what is no number, if no other default is given.
fn float(state: &State, value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let default = default.map_or_else(|| options.get::<Option<Value>>("default"), |default| Ok(Some(default)))?;
    filters::float(state, value, default.or(Some(0.0.into())), options)
}
