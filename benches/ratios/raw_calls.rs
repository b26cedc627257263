//! The raw side of calls: bare tokio, one read and one write, and nothing that could be left out.
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Result;
use crate::measure::micros;
use crate::raw_processes::{Nest, RawChild, connect};

/// Bytes of one echo, there and back: what a call `add(1, 2)` and its answer take on the wire.
const ECHO_BYTES: usize = 16;
/// Calls that are in flight at once.
pub(crate) const IN_FLIGHT: u32 = 100;
const BUFFER_BYTES: usize = 64 * 1024;

/// A child that sends back what it hears.
pub(crate) struct Echo {
    line: UnixStream,
    // After the line: its drop waits until the child has seen the line's end.
    _child: RawChild,
}

impl Echo {
    pub(crate) fn start(nest: &Nest, cpu: Option<usize>) -> Result<Self> {
        let (line, child) = start(nest, "echo", cpu)?;
        Ok(Echo { line, _child: child })
    }

    pub(crate) async fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        let request = [7; ECHO_BYTES];
        for _ in 0..count {
            let begin = Instant::now();
            self.line.write_all(&request).await?;
            let mut answer = [0; ECHO_BYTES];
            self.line.read_exact(&mut answer).await?;
            times.push(micros(begin.elapsed()));
            assert_eq!(request, answer, "an echo is what was said");
        }
        Ok(times)
    }
}

/// A child that adds, for a caller that has [`IN_FLIGHT`] calls on the way at once.
pub(crate) struct Pipeline {
    line: UnixStream,
    _child: RawChild,
    output: Vec<u8>,
    input: Vec<u8>,
    next_id: u32,
}

impl Pipeline {
    pub(crate) fn start(nest: &Nest, cpu: Option<usize>) -> Result<Self> {
        let (line, child) = start(nest, "pipeline", cpu)?;
        Ok(Pipeline { line, _child: child, output: Vec::new(), input: vec![0; BUFFER_BYTES], next_id: 0 })
    }

    pub(crate) async fn calls_per_second(&mut self, batches: u32) -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..batches {
            self.batch().await?;
        }
        Ok(f64::from(batches * IN_FLIGHT) / begin.elapsed().as_secs_f64())
    }

    async fn batch(&mut self) -> Result<()> {
        self.output.clear();
        for _ in 0..IN_FLIGHT {
            self.next_id += 1;
            put_frame(&mut self.output, &[CALL, self.next_id, ADD, 1, 2]);
        }
        self.line.write_all(&self.output).await?;
        let (mut end, mut answered) = (0, 0);
        while answered < IN_FLIGHT {
            end += read_some(&mut self.line, &mut self.input[end..]).await?;
            let mut rest = &self.input[..end];
            while let Some(frame) = take_frame(&mut rest)? {
                let [RETURN, _id, 3] = values(frame)? else {
                    return Err("a wrong answer".into());
                };
                answered += 1;
            }
            let kept = rest.len();
            self.input.copy_within(end - kept..end, 0);
            end = kept;
        }
        Ok(())
    }
}

pub(crate) fn start(nest: &Nest, role: &str, cpu: Option<usize>) -> Result<(UnixStream, RawChild)> {
    let mut child = nest.start(role, cpu)?;
    let line = child.take_line()?;
    line.set_nonblocking(true)?;
    Ok((UnixStream::from_std(line)?, child))
}

/// What a raw child of this file does. `None`: the role is not of this file.
pub(crate) fn child(role: &str) -> Option<Result<()>> {
    Some(match role {
        "echo" => serve(async |line| echo(line).await),
        "pipeline" => serve(async |line| pipeline(line).await),
        _ => return None,
    })
}

pub(crate) fn serve(server: impl AsyncFnOnce(UnixStream) -> Result<()>) -> Result<()> {
    let line = connect()?;
    line.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut line = UnixStream::from_std(line)?;
        line.write_all(b"b").await?;
        server(line).await
    })
}

async fn echo(mut line: UnixStream) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match line.read(&mut buffer).await? {
            0 => return Ok(()),
            length => line.write_all(&buffer[..length]).await?,
        }
    }
}

/// Reads many frames at once, answers them in place, writes once.
async fn pipeline(mut line: UnixStream) -> Result<()> {
    let mut input = vec![0; BUFFER_BYTES];
    let mut output = Vec::with_capacity(BUFFER_BYTES);
    let mut end = 0;
    loop {
        end += match line.read(&mut input[end..]).await? {
            0 => return Ok(()),
            length => length,
        };
        output.clear();
        let mut rest = &input[..end];
        while let Some(frame) = take_frame(&mut rest)? {
            let [CALL, id, ADD, a, b] = values(frame)? else {
                return Err("no such call".into());
            };
            put_frame(&mut output, &[RETURN, id, a + b]);
        }
        let kept = rest.len();
        input.copy_within(end - kept..end, 0);
        end = kept;
        line.write_all(&output).await?;
    }
}

async fn read_some(line: &mut UnixStream, buffer: &mut [u8]) -> Result<usize> {
    match line.read(buffer).await? {
        0 => Err("the raw child is gone".into()),
        length => Ok(length),
    }
}

// A frame: u32 little-endian length, then a msgpack array of unsigned numbers.

const CALL: u32 = 1;
const RETURN: u32 = 2;
const ADD: u32 = 1;

fn put_frame(out: &mut Vec<u8>, values: &[u32]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(0x90 | values.len() as u8);
    for &value in values {
        match value {
            0..0x80 => out.push(value as u8),
            _ => {
                out.push(0xce);
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Cuts the first whole frame off.
fn take_frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let Some((frame, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
        return Ok(None);
    };
    *bytes = rest;
    Ok(Some(frame))
}

fn values<const N: usize>(frame: &[u8]) -> Result<[u32; N]> {
    let (&head, mut rest) = frame.split_first().ok_or("an empty frame")?;
    if head != 0x90 | N as u8 {
        return Err("an array of another length".into());
    }
    let mut values = [0; N];
    for value in &mut values {
        let (&first, tail) = rest.split_first().ok_or("a frame cut short")?;
        (*value, rest) = match first {
            0..0x80 => (u32::from(first), tail),
            0xce => {
                let (number, tail) = tail.split_first_chunk::<4>().ok_or("a number cut short")?;
                (u32::from_be_bytes(*number), tail)
            }
            _ => return Err("not an unsigned number".into()),
        };
    }
    Ok(values)
}
