//! Messages between agents, controllers and nodes.
//!
//! The three engines know one another only by these types. Within one process messages are moved, not encoded; between
//! processes they get a versioned encoding here. Buffers travel with the message that needs them and come back with its
//! reply.
//!
//! Order: messages from one agent reach the controller in the order sent, and the other way round. Nothing is promised
//! between an agent's messages to the controller and those to nodes.
#![forbid(unsafe_code)]

pub mod control;
pub mod data;
pub mod order;

pub use control::{
    Access, AgentMessage, AttachError, Attachment, CommitError, ControllerMessage, Drop, GrantError, MapCommit,
    PageDelta, RequestId, SnapshotPage,
};
pub use data::{Credentials, DiskOperation, NodeReply, NodeRequest, NodeRequestId};
pub use order::{CommandId, NodeCommand, NodeOrder, NodeReport, Order, OrderOutcome};

/// One agent instance. Each data thread of a process runs one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AgentId(pub u32);

/// One shard of a node. Each data thread of a process runs one, and every shard has all of the node's disks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u32);
