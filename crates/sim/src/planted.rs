//! Every bug that can be planted, in whichever engine, by one list of names.

/// A bug of one of the engines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// In the agent.
    Agent(agent::Bug),
    /// In the node.
    Node(node::Bug),
    /// In the controller.
    Controller(controller::Bug),
}

impl PlantedBug {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let agent = agent::Bug::ALL.into_iter().map(Self::Agent);
        let node = node::Bug::ALL.into_iter().map(Self::Node);
        agent.chain(node).chain(controller::Bug::ALL.into_iter().map(Self::Controller)).collect()
    }

    /// What the command line calls it: `agent-wrong-bit`.
    #[must_use]
    pub fn name(self) -> String {
        let (engine, bug) = match self {
            Self::Agent(bug) => ("agent", format!("{bug:?}")),
            Self::Node(bug) => ("node", format!("{bug:?}")),
            Self::Controller(bug) => ("controller", format!("{bug:?}")),
        };
        let mut name = engine.to_owned();
        for letter in bug.chars() {
            if letter.is_ascii_uppercase() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// The bug of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|bug| bug.name() == name)
    }

    /// What an agent is told.
    #[must_use]
    pub fn agent(bug: Option<Self>) -> agent::Planted {
        match bug {
            Some(Self::Agent(bug)) => agent::Planted::with(bug),
            _ => agent::Planted::default(),
        }
    }

    /// What a node is told.
    #[must_use]
    pub fn node(bug: Option<Self>) -> node::Planted {
        match bug {
            Some(Self::Node(bug)) => node::Planted::with(bug),
            _ => node::Planted::default(),
        }
    }

    /// What a controller is told.
    #[must_use]
    pub fn controller(bug: Option<Self>) -> controller::Planted {
        match bug {
            Some(Self::Controller(bug)) => controller::Planted::with(bug),
            _ => controller::Planted::default(),
        }
    }
}
