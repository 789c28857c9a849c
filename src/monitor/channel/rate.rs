//! The rate of a log in the terms of the relay.

use crate::monitor::sandbox::{LogRate, OverRate};
use crate::relay::{Over, Rate};

impl From<LogRate> for Rate {
    fn from(LogRate { per_second, burst, over }: LogRate) -> Self {
        let over = match over {
            OverRate::Block => Over::Block,
            OverRate::Drop => Over::Drop,
        };
        Self { per_second, burst, over }
    }
}
