//! Image references: Docker Hub's naming rules, and what a request may take from a reference.
