//! Reading secrets from where the configuration says they are.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use crate::diag::{self, Invalid, Scope};
use crate::values::{RawSecret, Secret};

/// Reads the secret; a fault is recorded at `scope`.
pub fn resolve(raw: RawSecret, scope: &Scope<'_>) -> Option<Secret> {
    let text = match raw {
        RawSecret::Literal(text) => {
            scope.warn_if_exposed(
                "a secret stands in a file that others can read",
                "use `{ credential: … }`, `{ file: … }` or `{ env: … }`, or `chmod 600` the file",
            );
            text.expose_secret().to_owned()
        }
        RawSecret::Env(name) => {
            let value = std::env::var(&name).map_err(|_| {
                Invalid::new(format!("the environment variable `{name}` is not set, or is not text"))
            });
            scope.key("env").accept(value)?
        }
        RawSecret::File(path) => {
            let scope = scope.key("file");
            let file = scope.file(path);
            scope.accept(file.read(LARGEST_SECRET).and_then(|bytes| text(bytes, file.path())))?
        }
        RawSecret::Credential(name) => credential(&name, &scope.key("credential"))?,
    };
    if text.is_empty() {
        scope.reject("the secret is empty");
        return None;
    }
    if text.bytes().any(|b| b.is_ascii_control()) {
        scope.reject("the secret holds a control character or a line break");
        return None;
    }
    Some(Secret::new(text))
}

/// What basic authentication sends has two parts. `form` is what a right one looks like.
pub fn warn_without_colon(token: &Secret, form: &str, scope: &Scope<'_>) {
    if !token.expose().contains(':') {
        scope.warn("the service token has no `:`", form);
    }
}

/// Reads a credential that systemd keeps for this service. It cannot change while the service runs, so that its file is neither
/// watched nor part of the configuration's digest, and a check from outside comes to the same digest.
fn credential(name: &str, scope: &Scope<'_>) -> Option<String> {
    scope.accept(check_credential_name(name))?;
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let is_visible = directory.as_ref().is_some_and(|directory| directory.read_dir().is_ok());
    if !is_visible && scope.is_outside() {
        scope.warn(
            format!("whether the credential `{name}` is there cannot be seen from here"),
            "systemd shows credentials to the service's main process only",
        );
        return Some("unseen:unseen".to_owned());
    }
    let directory = directory.ok_or_else(|| {
        Invalid::new("there is no credentials directory")
            .hint("systemd sets CREDENTIALS_DIRECTORY for units with `LoadCredential=`")
    });
    scope.accept(directory.and_then(|directory| {
        let path = directory.join(name);
        text(diag::read(&path, LARGEST_SECRET)?, &path)
    }))
}

/// What a secret's file says; a byte order mark and one final line break are not part of the secret.
fn text(bytes: Vec<u8>, path: &Path) -> Result<String, Invalid> {
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Invalid::new(format!("`{}` cannot be read: it is not UTF-8", path.display())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(text.to_owned())
}

fn check_credential_name(name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Invalid::new(format!("`{name}` is not the name of a credential")));
    }
    Ok(())
}

/// A token or a header's value is far smaller.
const LARGEST_SECRET: u64 = 64 << 10;
