//! What a connection promises, told in sentences.
