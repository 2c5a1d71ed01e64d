//! Small files of the formats that models come in, built in memory, for tests here and in the
//! crates above.

pub mod gguf;
