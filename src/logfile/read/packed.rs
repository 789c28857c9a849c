//! Decompression of generations.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, copy, sink};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::super::names;

/// The largest accepted window of a Zstandard frame, in bytes: 128 MiB, the default of zstd(1). The
/// window size is in the frame's header, and the reader allocates as much.
const MAX_WINDOW: u64 = 1 << 27;

/// The compression of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstandard,
}

impl Packing {
    pub(super) const ALL: [Self; 2] = [Self::Gzip, Self::Zstandard];

    /// The suffix of the generation's name.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => names::GZIP,
            Self::Zstandard => names::ZSTANDARD,
        }
    }
}

/// A decoder of a compressed file, from its beginning.
pub(super) enum Packed {
    Gzip(MultiGzDecoder<BufReader<File>>),
    Zstandard(Frames),
}

impl Packed {
    pub(super) fn new(mut file: File, packing: Packing) -> io::Result<Self> {
        file.rewind()?;
        let file = BufReader::new(file);
        Ok(match packing {
            Packing::Gzip => Self::Gzip(MultiGzDecoder::new(file)),
            Packing::Zstandard => {
                let mut decoder = Box::new(FrameDecoder::new());
                decoder.set_max_window_size(MAX_WINDOW);
                Self::Zstandard(Frames { file, decoder, begun: false })
            }
        })
    }

    /// A decoder of the same file from its beginning.
    pub(super) fn rewound(self) -> io::Result<Self> {
        match self {
            Self::Gzip(decoder) => Self::new(decoder.into_inner().into_inner(), Packing::Gzip),
            Self::Zstandard(frames) => Self::new(frames.file.into_inner(), Packing::Zstandard),
        }
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstandard(frames) => frames.file.get_ref(),
        }
    }
}

impl Read for Packed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(bytes),
            Self::Zstandard(frames) => frames.read(bytes),
        }
    }
}

/// The frames of a Zstandard file, in sequence. Each takes as much memory as its window, which is
/// 8 MiB at most with the default levels of zstd(1). A frame above [`MAX_WINDOW`] is refused before
/// anything is allocated.
pub(super) struct Frames {
    file: BufReader<File>,
    decoder: Box<FrameDecoder>,
    /// Whether the decoder is within a frame.
    begun: bool,
}

impl Frames {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.begun && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(bytes.len());
                self.decoder.decode_blocks(&mut self.file, some).map_err(io::Error::other)?;
            }
            match self.decoder.read(bytes)? {
                0 if !bytes.is_empty() => self.begun = false,
                count => return Ok(count),
            }
        }
    }

    /// Starts the next frame; `false` at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.file.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.file) {
                Ok(()) => {
                    self.begun = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    copy(&mut (&mut self.file).take(length.into()), &mut sink())?;
                }
                Err(FrameDecoderError::WindowSizeTooBig { requested, max }) => {
                    return Err(io::Error::other(format!(
                        "a frame needs a window of {requested} bytes, and {max} is the limit: \
                         decompress it with 'zstd -d --long=31'"
                    )));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn unpacked(packing: Packing, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(&path, bytes).unwrap();
        let mut all = Vec::new();
        let mut packed = Packed::new(File::open(&path).unwrap(), packing)?;
        packed.read_to_end(&mut all)?;
        let mut again = Vec::new();
        packed.rewound()?.read_to_end(&mut again)?;
        assert_eq!(all, again);
        Ok(all)
    }

    fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(&path, bytes).unwrap();
        Command::new(program).arg("-c").arg(path.path()).output().unwrap().stdout
    }

    #[test]
    fn gzip_and_zstd_files_of_several_parts_are_decompressed() {
        let text: Vec<u8> =
            (0..300_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        for (program, packing) in [("gzip", Packing::Gzip), ("zstd", Packing::Zstandard)] {
            let once = packed(program, &text);
            assert!(unpacked(packing, &once).unwrap() == text, "{program}");
            let twice = [once.clone(), packed(program, b""), once].concat();
            assert!(unpacked(packing, &twice).unwrap() == [text.clone(), text.clone()].concat());
        }
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &packed("zstd", b"x")[..]];
        assert_eq!(unpacked(Packing::Zstandard, &skippable.concat()).unwrap(), b"x");
    }

    #[test]
    fn a_truncated_or_foreign_file_is_an_error() {
        for (program, packing) in [("gzip", Packing::Gzip), ("zstd", Packing::Zstandard)] {
            let whole = packed(program, b"some text");
            for cut in 1..whole.len() - 4 {
                assert!(unpacked(packing, &whole[..cut]).is_err(), "{program} {cut}");
            }
            assert!(unpacked(packing, b"plain text, and not a short one").is_err());
        }
    }

    /// A frame of one block, which repeats a byte, by its header behind the magic number (RFC
    /// 8878).
    fn frame(header: &[u8], length: u32) -> Vec<u8> {
        let block = (length << 3 | 1 << 1 | 1).to_le_bytes();
        [&0xfd2f_b528_u32.to_le_bytes()[..], header, &block[..3], b"x"].concat()
    }

    #[test]
    fn the_window_of_a_frame_is_bounded_whether_it_is_the_first_or_not() {
        let small = frame(&[0, 0], 3);
        // 2^(10 + exponent), and eighths of it; the size of a single segment.
        let window = |exponent: u8, eighths: u8| frame(&[0, exponent << 3 | eighths], 3);
        let single = |size: u64| frame(&[&[0xe0][..], &size.to_le_bytes()].concat(), 3);
        for fits in [window(17, 0), window(16, 7), single(1 << 27), single(3)] {
            let both = [fits.clone(), small.clone(), fits].concat();
            assert_eq!(unpacked(Packing::Zstandard, &both).unwrap(), b"xxx".repeat(3));
        }
        let beyond = single((1 << 27) + 1);
        for large in [window(17, 1), window(21, 0), window(31, 6), beyond, single(u64::MAX)] {
            for bytes in [large.clone(), [small.clone(), large].concat()] {
                let error = unpacked(Packing::Zstandard, &bytes).unwrap_err().to_string();
                assert!(error.contains("134217728 is the limit"), "{error}");
            }
        }
    }

    /// Of a block whose 1,000 sequences repeat 131,074 bytes each. Every table is a single symbol:
    /// no literals, the last offset, and the longest match, whose 16 more bits are all set.
    #[test]
    fn a_block_gives_no_more_than_a_block_may() {
        let sequences = 1000_u32;
        let literals = [1 << 3, b'x'];
        let count = [(sequences >> 8) as u8 + 128, sequences as u8];
        let (modes, tables) = ([0b0101_0100], [0, 0, 52]);
        let bits = [vec![0xff; 2 * sequences as usize], vec![1]].concat();
        let body = [&literals[..], &count, &modes, &tables, &bits].concat();
        let block = ((body.len() as u32) << 3 | 2 << 1 | 1).to_le_bytes();
        let before = (8_u32 << 3 | 1 << 1).to_le_bytes();
        let magic = 0xfd2f_b528_u32.to_le_bytes();
        let bytes = [&magic[..], &[0, 17 << 3], &before[..3], b"x", &block[..3], &body].concat();
        let error = unpacked(Packing::Zstandard, &bytes).unwrap_err().to_string();
        assert!(error.contains("131072"), "{error}");
    }
}
