//! How is one actor of a running tree looked at? Stops, the prompt in the root's terminal, dumps.
