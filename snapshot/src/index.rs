//! What a layer contains without its bytes, and a stack of such indexes as one tree.
