//! PM2's own socket: AMP frames with a JSON call in them, as pm2-axon-rpc sends it. Connecting never
//! starts a daemon, which every command of pm2 does.

use std::{io, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Longest for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Largest answer; some 6 kB for each application, with its whole environment.
const LARGEST: u32 = 8 << 20;

/// Calls a method that only reads.
///
/// # Errors
/// When nobody answers at the socket, or not in this form.
pub(super) async fn call(socket: &Path, method: &str) -> io::Result<Value> {
    let asked = timeout(ANSWER, exchange(socket, method)).await;
    asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

async fn exchange(socket: &Path, method: &str) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket).await?;
    let call = format!("j:{}", json!({ "type": "call", "method": method, "args": [{}] }));
    stream.write_all(&frame(&[call.as_bytes(), b"s:hostler:0"])).await?;
    let parts = stream.read_u8().await? & 0x0f;
    let mut first = Vec::new();
    for part in 0..parts {
        let length = stream.read_u32().await?;
        if length > LARGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        let mut bytes = vec![0; length as usize];
        stream.read_exact(&mut bytes).await?;
        if part == 0 {
            first = bytes;
        }
    }
    answer(&first)
}

/// Version and number of parts in one byte; each part behind its length.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0x10 | u8::try_from(parts.len()).unwrap_or(0)];
    for part in parts {
        frame.extend(u32::try_from(part.len()).unwrap_or(0).to_be_bytes());
        frame.extend_from_slice(part);
    }
    frame
}

fn answer(part: &[u8]) -> io::Result<Value> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let text = part.strip_prefix(b"j:").ok_or_else(|| invalid("the answer is no JSON".into()))?;
    let mut answer: Value = serde_json::from_slice(text).map_err(|e| invalid(e.to_string()))?;
    if let Some(error) = answer["error"].as_str() {
        return Err(invalid(error.to_owned()));
    }
    Ok(answer["args"][0].take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_answers_have_the_form_of_pm2() {
        assert_eq!(frame(&[b"ab", b"c"]), b"\x12\0\0\0\x02ab\0\0\0\x01c");
        assert_eq!(answer(b"j:{\"args\":[{\"msg\":\"pong\"}]}").expect("read")["msg"], "pong");
        let unknown =
            answer(b"j:{\"error\":\"method \\\"x\\\" does not exist\"}").expect_err("error");
        assert!(unknown.to_string().contains("does not exist"));
        assert!(answer(b"s:x").is_err());
    }
}
