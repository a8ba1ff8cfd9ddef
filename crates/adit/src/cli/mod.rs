//! Verbs: what was typed, turned into a call of the library.
