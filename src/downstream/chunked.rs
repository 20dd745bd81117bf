//! Where a chunked body ends, and whether every byte of its framing is what RFC 9112 section 7.1 allows.
//!
//! Owns the grammar of chunk lines and trailers. It is fed the body as it arrives, in any pieces, and never keeps, changes or
//! looks at a byte of data. Pingora decodes the same bytes afterwards; its parser is laxer (any octet inside an extension), so
//! whatever passes here has one meaning only.

use super::grammar::{BARE_CR, BARE_LF, TOKEN, VALUE, bad, is};
use super::{Cause, Refusal};

/// Follows one chunked body.
#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    /// Size of the chunk whose line is being read, then what is left of its data.
    left: u64,
    /// Extension bytes of the whole message so far.
    extensions: usize,
    /// Trailer bytes so far.
    trailers: usize,
}

/// What a piece meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// This many bytes belong to the body; the rest is another message.
    pub used: usize,
    pub ended: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    SizeStart,
    /// After this many hex digits.
    Size(u8),
    ExtensionStart,
    ExtensionName,
    /// A blank after the name: `=` or `;` must follow.
    ExtensionNameEnd,
    ValueStart,
    Value,
    Quoted,
    QuotedEscape,
    /// After a value that cannot go on: `;` or the end of the line must follow.
    ValueEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Ended,
}

impl Scanner {
    /// Takes the next piece. After a refusal the scanner is of no further use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Refusal> {
        let mut used = 0;
        while used < bytes.len() && self.state != State::Ended {
            used += self.feed_chunk(&bytes[used..])?.used;
        }
        Ok(Progress { used, ended: self.state == State::Ended })
    }

    /// The same up to the end of a chunk.
    pub fn feed_chunk(&mut self, bytes: &[u8]) -> Result<Progress, Refusal> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Ended {
            if self.state == State::Data {
                let here =
                    usize::try_from(self.left).map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
                self.left -= here as u64;
                at += here;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
            } else {
                let before = self.state;
                self.state = self.step(bytes[at])?;
                at += 1;
                if before == State::DataLf {
                    break;
                }
            }
        }
        Ok(Progress { used: at, ended: self.state == State::Ended })
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        use State::*;
        Ok(match (self.state, byte) {
            (SizeStart, _) => {
                self.left = 0;
                self.digit(byte, 0)?
            }
            (Size(_), b'\r') => SizeLf,
            (Size(_), b';') => self.extension(ExtensionStart)?,
            (Size(digits), _) => self.digit(byte, digits)?,

            (ExtensionName | Value | ValueEnd, b'\r') => SizeLf,
            (ExtensionName | ExtensionNameEnd | Value | ValueEnd, b';') => self.extension(ExtensionStart)?,
            (ExtensionName | ExtensionNameEnd, b'=') => self.extension(ValueStart)?,
            (ExtensionStart | ValueStart, b' ' | b'\t') => self.extension(self.state)?,
            (ExtensionName | ExtensionNameEnd, b' ' | b'\t') => self.extension(ExtensionNameEnd)?,
            (Value | ValueEnd, b' ' | b'\t') => self.extension(ValueEnd)?,
            (ExtensionStart | ExtensionName, _) if is(byte, TOKEN) => self.extension(ExtensionName)?,
            (ValueStart | Value, _) if is(byte, TOKEN) => self.extension(Value)?,
            (ValueStart, b'"') => self.extension(Quoted)?,
            (Quoted, b'"') => self.extension(ValueEnd)?,
            (Quoted, b'\\') => self.extension(QuotedEscape)?,
            (Quoted | QuotedEscape, _) if is(byte, VALUE) => self.extension(Quoted)?,

            (SizeLf, b'\n') if self.left == 0 => TrailerStart,
            (SizeLf, b'\n') => Data,
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => SizeStart,
            (DataCr | DataLf, _) => return Err(bad("the data of a chunk is not followed by CRLF")),

            (TrailerStart, b'\r') => LastLf,
            (TrailerName, b':') => self.trailer(TrailerValue)?,
            (TrailerStart | TrailerName, _) if is(byte, TOKEN) => self.trailer(TrailerName)?,
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerValue, _) if is(byte, VALUE) => self.trailer(TrailerValue)?,
            (TrailerLf, b'\n') => self.trailer(TrailerStart)?,
            (LastLf, b'\n') => Ended,

            (SizeLf | TrailerLf | LastLf, _) => return Err(BARE_CR),
            (_, b'\n') => return Err(BARE_LF),
            (TrailerStart | TrailerName | TrailerValue, _) => return Err(bad("a trailer is malformed")),
            _ => return Err(bad("a chunk extension is malformed")),
        })
    }

    fn digit(&mut self, byte: u8, digits: u8) -> Result<State, Refusal> {
        let digit = char::from(byte).to_digit(16).filter(|_| digits < SIZE_DIGITS);
        let digit = digit.ok_or(if byte == b'\n' { BARE_LF } else { SIZE })?;
        self.left = self.left << 4 | u64::from(digit);
        // Pingora counts in the address space; a size beyond what a length can be is refused like one that overflows.
        if self.left > i64::MAX.unsigned_abs() {
            return Err(SIZE);
        }
        Ok(State::Size(digits + 1))
    }

    fn extension(&mut self, next: State) -> Result<State, Refusal> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_LIMIT {
            Err(bad("the chunk extensions are too long"))
        } else {
            Ok(next)
        }
    }

    fn trailer(&mut self, next: State) -> Result<State, Refusal> {
        self.trailers += 1;
        if self.trailers > TRAILERS_LIMIT { Err(TRAILERS_TOO_LARGE) } else { Ok(next) }
    }
}

const SIZE: Refusal = bad("a chunk size is not one to sixteen hexadecimal digits");
const TRAILERS_TOO_LARGE: Refusal =
    Refusal { status: 431, cause: Cause::HeadersTooLarge, reason: "the trailers are too large" };

/// Enough for any `u64`; further ones can only be zeros that hide the value.
const SIZE_DIGITS: u8 = 16;
/// Over the whole message: RFC 9112 section 7.1.1 asks for a limit, and nobody uses them.
const EXTENSIONS_LIMIT: usize = 4 * 1024;
const TRAILERS_LIMIT: usize = 8 * 1024;

#[cfg(test)]
mod tests;
