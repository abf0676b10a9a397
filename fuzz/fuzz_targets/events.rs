#![no_main]

// With its ordinary test (`observer/tests/corpus.rs`).
#[path = "../src/recording.rs"]
mod recording;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| recording::read(bytes));

// Octets change inside a line as everywhere; and whole lines move, come again or go away.
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(2) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let mut lines: Vec<Vec<u8>> = data[..size]
        .split(|octet| *octet == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let place = |salt: u32| {
        usize::try_from(seed.wrapping_mul(2_654_435_761).rotate_left(salt)).unwrap_or(0)
    };
    let (from, to) = (place(7) % lines.len(), place(19) % lines.len());
    match seed / 2 % 3 {
        0 => lines.swap(from, to),
        1 => lines.insert(to, lines[from].clone()),
        _ => drop(lines.remove(from)),
    }
    let changed = lines.join(&b'\n');
    let length = changed.len().min(max_size);
    data[..length].copy_from_slice(&changed[..length]);
    length
});
