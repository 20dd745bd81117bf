//! `Wildcard`: a pattern that no text makes slow.

/// A text in which `*` stands for any characters and `?` for any one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard(String);

impl Wildcard {
    pub fn new(pattern: String) -> Self {
        Wildcard(pattern)
    }

    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }
}

/// Goes back only to the last `*`, so that no pattern takes more than the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, taken)) = retry else { return false };
                retry = Some((after_star, taken + 1));
                (p, n) = (after_star, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn wildcard(pattern: &str, name: &str, expected: bool) {
        assert_eq!(Wildcard::new(pattern.to_owned()).matches(name), expected, "{pattern} {name}");
    }

    #[test]
    fn wildcards_match_whole_texts() {
        wildcard("*.yaml", "a.yaml", true);
        wildcard("*.yaml", "a.yaml~", false);
        wildcard("*.yaml", ".yaml", true);
        wildcard("a?.yaml", "ab.yaml", true);
        wildcard("a?.yaml", "a.yaml", false);
        wildcard("*a*b", "xaxbxb", true);
        wildcard("*a*b", "xaxbx", false);
        wildcard("*", "", true);
    }
}
