//! The controller engine: owns the durable table and the allocator.
