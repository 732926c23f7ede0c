//! Scenarios that both ports must meet: the proplet at a broker, with its peers.

mod bad_input;
pub(crate) mod cuts;
mod delivery;
mod guests;
mod http;
mod latent;
mod limits;
mod link;
pub(crate) mod presence;
mod reboot;
mod registry;
mod rounds;
pub(crate) mod shares;
mod sizes;
mod tasks;
