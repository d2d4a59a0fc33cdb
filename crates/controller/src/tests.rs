//! The engine with a store, a node and agents made of cardboard.

mod chains;
mod faults;
mod histories;
mod operators;
mod scale;
mod space;
mod world;
