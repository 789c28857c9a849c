//! The reactor alone, through its public interface.

mod reactor;
