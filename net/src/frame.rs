//! Messages on a stream: a length, then that many bytes.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one message as JSON.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    write_bytes(stream, &serde_json::to_vec(message)?).await
}

pub async fn write_bytes(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await
}

/// Reads one message of at most `max_bytes`.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max_bytes: usize,
) -> io::Result<T> {
    let bytes = read_bytes(stream, max_bytes).await?;
    serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

pub async fn read_bytes(stream: &mut (impl AsyncRead + Unpin), max_bytes: usize) -> io::Result<Bytes> {
    let length = stream.read_u32().await? as usize;
    if length > max_bytes {
        let text = format!("a message of {length} bytes, where at most {max_bytes} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // Grown as bytes come: a length alone costs its sender nothing.
    let mut bytes = Vec::new();
    let read = stream.take(length as u64).read_to_end(&mut bytes).await?;
    match read == length {
        true => Ok(bytes.into()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_back_and_long_or_torn_ones_do_not() {
        let mut wire = Vec::new();
        write(&mut wire, &("a", 1)).await.unwrap();
        let mut stream = wire.as_slice();
        assert_eq!(
            read::<(String, u32)>(&mut stream, 100).await.unwrap(),
            ("a".into(), 1)
        );
        assert!(read_bytes(&mut wire.as_slice(), 6).await.is_err());
        assert!(read_bytes(&mut &wire[..wire.len() - 1], 100).await.is_err());
    }
}
