//! Tests with random input: rounds of numbered seeds, and mutations of a valid input.
//!
//! Each test runs for a moment, or for `VMON_FUZZ_SECONDS`. A failure prints the seed of its round;
//! `VMON_FUZZ_SEED` runs that round alone.

#![allow(dead_code)] // each package uses a part

use std::time::{Duration, Instant};

use fastrand::Rng;

/// How long a test runs by default.
const MOMENT: Duration = Duration::from_millis(500);

/// Prints its seed if the round panics.
struct Round(u64);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("VMON_FUZZ_SEED={}", self.0);
        }
    }
}

/// Calls `round` with the random numbers of one seed after another.
pub fn rounds(mut round: impl FnMut(&mut Rng)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("VMON_FUZZ_SEED") {
        return round(&mut Rng::with_seed(seed));
    }
    let time = number("VMON_FUZZ_SECONDS").map_or(MOMENT, Duration::from_secs);
    let began = Instant::now();
    for seed in 0.. {
        let _round = Round(seed);
        round(&mut Rng::with_seed(seed));
        if began.elapsed() >= time {
            return;
        }
    }
}

/// Numbers at which something overflows.
const EDGES: [u64; 8] =
    [0, 1, 0x7f, 0xff, u32::MAX as u64, i64::MAX as u64, i64::MIN as u64, u64::MAX];

/// Changes a few places of `bytes`. `words` are parts of a valid input.
pub fn mutate(random: &mut Rng, bytes: &mut Vec<u8>, words: &[&[u8]]) {
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..=bytes.len());
        let rest = bytes.len() - at;
        let some = random.usize(..=rest.min(40));
        match random.u8(..9) {
            0 if rest > 0 => bytes[at] ^= 1 << random.u8(..8),
            1 if rest > 0 => bytes[at] = random.u8(..),
            2 if rest >= 8 => {
                let edge = random.choice(EDGES).unwrap();
                let width = random.choice([1, 2, 4, 8]).unwrap();
                bytes[at..at + width].copy_from_slice(&edge.to_le_bytes()[..width]);
            }
            3 => drop(bytes.drain(at..at + some)),
            4 => {
                let copy = bytes[at..at + some].to_vec();
                let to = random.usize(..=bytes.len());
                bytes.splice(to..to, copy);
            }
            5 => bytes.truncate(at),
            6 => {
                let new: Vec<u8> = (0..random.usize(1..9)).map(|_| random.u8(..)).collect();
                bytes.splice(at..at, new);
            }
            7 => {
                let edge = random.choice(EDGES).unwrap().to_string().into_bytes();
                bytes.splice(at..at + some, edge);
            }
            _ => {
                if let Some(word) = random.choice(words) {
                    bytes.splice(at..at, word.iter().copied());
                }
            }
        }
    }
}

/// The bytes in pieces of any size.
pub fn pieces<'a>(random: &mut Rng, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.usize(1..=bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
