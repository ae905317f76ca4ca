//! Placing and starting a helper.
