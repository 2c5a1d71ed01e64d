//! The rules of a table whose engine keeps something on a server: where the server is, and that no secret is written.

use serde_json::{Map, Value};

use super::check::Found;
use super::quote::abbreviated;

/// Settings that name environment variables.
const VARIABLES: [&str; 3] = ["url_env", "password_env", "api_key_env"];

/// What a table says of its server.
pub(super) struct ServerPlace<'a> {
    /// The table.
    pub(super) table: &'a Map<String, Value>,
    /// Where it is in the document, such as `/vectors`.
    pub(super) pointer: &'a str,
    /// Its engine, as the file writes it.
    pub(super) engine: &'a str,
    /// The settings that say something to this engine.
    pub(super) takes: &'a [&'a str],
    /// What a URL of it begins with; nothing where it has no server.
    pub(super) schemes: &'a [&'a str],
    /// Those that are told.
    pub(super) told_schemes: &'a [&'a str],
    /// A name of a variable, to show how one is written.
    pub(super) variable: &'a str,
}

/// A secret that a URL holds: what it is, and the setting that names where it belongs.
pub(super) type Secret = (&'static str, &'static str);

impl ServerPlace<'_> {
    fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.pointer)
    }

    /// A text that is written, and has no problem yet.
    pub(super) fn written(&self, name: &str, found: &Found) -> Option<&str> {
        self.table.get(name).and_then(Value::as_str).filter(|_| !found.is_broken(&self.pointer(name)))
    }

    /// Puts every broken rule into `found`. `settings` are those of all engines, `instead` says what to do about one that
    /// says nothing to this engine, and `secret` what a URL holds, behind its scheme, that it should not.
    pub(super) fn check(
        &self,
        settings: &[&str],
        instead: impl Fn(&str) -> String,
        secret: impl Fn(&str) -> Option<Secret>,
        found: &mut Found,
    ) {
        for name in settings.iter().filter(|name| self.table.contains_key(**name) && !self.takes.contains(name)) {
            let wrong = format!("`{name}` means nothing to the engine {:?}", self.engine);
            found.key(&self.pointer(name), wrong, instead(name));
        }
        for name in VARIABLES.into_iter().filter(|name| self.takes.contains(name)) {
            if let Some(variable) = self.written(name, found) {
                check_variable(variable, &self.pointer(name), self.variable, found);
            }
        }
        if self.schemes.is_empty() {
            return;
        }
        match (self.table.contains_key("url"), self.table.contains_key("url_env")) {
            (false, false) => {
                let wrong = format!("the engine {:?} needs to know where its server is", self.engine);
                let right = format!("write url = \"{}...\", or url_env", self.schemes.first().unwrap_or(&""));
                found.missing(self.pointer, wrong, right);
            }
            (true, true) => {
                let wrong = "`url` and `url_env` both say where the server is".to_owned();
                found.key(&self.pointer("url_env"), wrong, "write one of them".to_owned());
            }
            _ => {}
        }
        if let Some(url) = self.written("url", found) {
            self.check_url(url, secret, found);
        }
    }

    fn check_url(&self, url: &str, secret: impl Fn(&str) -> Option<Secret>, found: &mut Found) {
        let pointer = self.pointer("url");
        let Some(rest) = self.schemes.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
            // It may hold a password in the wrong place: it is not shown.
            let wrong = format!("this is no URL of the engine {:?}", self.engine);
            return found.value(
                &pointer,
                wrong,
                format!("write one that begins with {}", self.told_schemes.join(" or ")),
            );
        };
        if let Some((what, setting)) = secret(rest) {
            let wrong = format!("the URL holds {what}, which does not belong into this file");
            let right = format!("take it out, and name the variable that holds it in {setting}");
            found.value(&pointer, wrong, right);
        }
    }
}

/// The password of a URL of PostgreSQL, behind its scheme: beside the user, or among the options.
pub(super) fn password_of_postgres(rest: &str) -> Option<Secret> {
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.split('/').next().unwrap_or_default().rsplit_once('@').map(|(user, _)| user);
    let has_password =
        user.is_some_and(|user| user.contains(':')) || options.split('&').any(|option| option.starts_with("password="));
    has_password.then_some(("a password", "password_env"))
}

/// Refuses what is no name of an environment variable.
pub(super) fn check_variable(variable: &str, pointer: &str, example: &str, found: &mut Found) {
    if !is_variable(variable) {
        let wrong = format!("{} is no name of an environment variable", abbreviated(variable));
        found.value(pointer, wrong, format!("write one of letters, digits and `_`, such as {example:?}"));
    }
}

/// A name that every shell can set.
pub(super) fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
