//! The reactor alone, through its public interface.

#![cfg(test)]

mod reactor;
