//! How a stand-in says how it ended: a text on standard output, or what is wrong on standard error and a code.

use std::{io::Write as _, process::ExitCode};

/// Why a program does not do what it was asked, and the code that says so.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl Exit {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Says it, and gives the code.
pub(crate) fn end(program: &str, ended: Result<String, Exit>) -> ExitCode {
    match ended {
        Ok(text) => {
            if !text.is_empty() {
                // Nobody is left to be told when the reader has gone.
                writeln!(std::io::stdout(), "{text}").ok();
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            writeln!(std::io::stderr(), "{program} stand-in: {}", failure.text).ok();
            ExitCode::from(failure.code)
        }
    }
}

/// The same for programs that know one code only.
pub(crate) fn end_plainly(program: &str, ended: Result<String, String>) -> ExitCode {
    end(program, ended.map_err(|text| Exit::new(1, text)))
}
