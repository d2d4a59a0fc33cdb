//! Messages between agents, controllers and nodes.
