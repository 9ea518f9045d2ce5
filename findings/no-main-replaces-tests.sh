#!/usr/bin/env bash
# The unit tests of a program with `#![no_main]` and a main of its own never run, and `cargo test` is content.
#
# Seen with rustc 1.95.0: a program that begins at the C library's main (`#![no_main]` and an exported `main`, as is done to
# spare the start of the standard library) has both under `cargo test` as well. The exported function takes the place of the
# test harness's main, without a warning of compiler or linker: the "test binary" is the program. A test that must fail
# is not run, and `cargo test` ends with 0 if the program does. What stands after `--` or as a name of a test reaches the
# program as its arguments, and it acts on them. `test = false` for the program in Cargo.toml, or `not(test)` at both, is
# the way out.
# Needs cargo and nothing else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'END'
[package]
name = "program"
version = "0.1.0"
edition = "2024"
END
cat >src/main.rs <<'END'
#![no_main]

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    println!("the program runs with {:?}", std::env::args().skip(1).collect::<Vec<_>>());
    0
}

#[test]
fn fails() {
    panic!("a test runs");
}
END
rustc --version
status=0
output=$(cargo test --quiet fails 2>&1) || status=$?
echo "cargo test: status $status, says: $output"
[[ $status == 0 && $output == *'the program runs with ["fails"'* && $output != *'a test runs'* ]] || { echo "this has changed"; exit 1; }
