//! `MediaType`: as much of a content type as decides between text and base64.

/// A content type's essence, and whether it names a charset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// Lower case, without parameters.
    essence: String,
    has_charset: bool,
}

impl MediaType {
    pub fn parse(content_type: &[u8]) -> Self {
        let text = String::from_utf8_lossy(content_type).to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_owned();
        MediaType { essence, has_charset: parts.any(|parameter| parameter.starts_with("charset=")) }
    }

    pub fn is_json(&self) -> bool {
        self.essence == "application/json"
    }

    pub fn is_form(&self) -> bool {
        self.essence == "application/x-www-form-urlencoded"
    }

    /// Whether platforms that put a body into JSON carry it as base64: everything that is not known to be text.
    pub fn is_binary(&self) -> bool {
        let is_text = self.has_charset
            || self.essence.starts_with("text/")
            || self.essence.ends_with("+json")
            || self.essence.ends_with("+xml")
            || TEXTS.contains(&self.essence.as_str());
        !is_text
    }
}

/// Text in spite of standing under `application/`.
const TEXTS: [&str; 8] = [
    "application/ecmascript",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/x-ndjson",
    "application/x-www-form-urlencoded",
    "application/xml",
    "application/yaml",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_binary() {
        for (content_type, binary) in [
            ("text/plain", false),
            ("Text/HTML; Charset=UTF-8", false),
            ("application/json", false),
            ("application/problem+json", false),
            ("image/svg+xml", false),
            ("application/x-www-form-urlencoded", false),
            ("application/anything; charset=utf-8", false),
            ("image/png", true),
            ("application/octet-stream", true),
            ("application/pdf; version=1", true),
            ("multipart/form-data; boundary=x", true),
            ("", true),
            ("\u{fffd}", true),
        ] {
            assert_eq!(MediaType::parse(content_type.as_bytes()).is_binary(), binary, "{content_type}");
        }
    }
}
