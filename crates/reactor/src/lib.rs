//! io_uring and its fallback: the only unsafe code.
