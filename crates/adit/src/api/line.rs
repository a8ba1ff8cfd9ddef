//! One line over a stream, in both directions, each within a length and a time.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// What is left until `deadline`; an error when nothing is. A peer that trickles bytes gains no time by it.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Reads up to a line feed or the end of the stream. The line comes without its line feed; one that is longer than
/// `longest` comes cut off at `longest` + 1 bytes.
pub(super) fn read(mut stream: &UnixStream, longest: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let read = match stream.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = chunk.get(..read).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(bytes.get(..end.unwrap_or(read)).unwrap_or_default());
        if line.len() > longest {
            line.truncate(longest + 1);
            return Ok(line);
        }
        if end.is_some() || read == 0 {
            return Ok(line);
        }
    }
}

/// Writes all of `line`.
pub(super) fn write(mut stream: &UnixStream, mut line: &[u8], deadline: Instant) -> io::Result<()> {
    while !line.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn line_of(sent: &[u8], longest: usize) -> Vec<u8> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(sent).unwrap();
        drop(ours);
        read(&theirs, longest, soon()).unwrap()
    }

    #[test]
    fn a_line_ends_at_its_line_feed_or_with_the_stream() {
        assert_eq!(line_of(b"", 10), b"");
        assert_eq!(line_of(b"abc", 10), b"abc");
        assert_eq!(line_of(b"abc\ndef\n", 10), b"abc");
        assert_eq!(line_of(b"abcdefghij\n", 10), b"abcdefghij");
        assert_eq!(line_of(b"abcdefghijk\n", 10), b"abcdefghijk");
        assert_eq!(line_of(&[b'x'; 9000], 10).len(), 11);
        assert_eq!(line_of(&[b'x'; 9000], 8999).len(), 9000);
    }

    #[test]
    fn a_trickle_ends_at_the_deadline() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"a").unwrap();
        let began = Instant::now();
        let error = read(&theirs, 10, began + Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        assert!(began.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_reader_that_stops_ends_at_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = write(&ours, &[0; 4 << 20], Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    }
}
