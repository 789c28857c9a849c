//! The control socket of a monitored child: varlink over a Unix stream socket, interface
//! `io.vmon.Monitor`, as `docs/io.vmon.Monitor.varlink` describes it.
