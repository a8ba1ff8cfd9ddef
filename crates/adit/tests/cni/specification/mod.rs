//! Every MUST and SHOULD of the CNI specification 1.1.0 that a plugin has to follow, by the sections of the specification. What it asks of runtimes
//! is not here, nor what it asks of plugins that delegate to others, since this one delegates to none.

mod adding;
mod checking;
mod collecting;
mod removing;
mod results;
mod telling;
