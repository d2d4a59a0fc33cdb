//! Types of the operator API.
