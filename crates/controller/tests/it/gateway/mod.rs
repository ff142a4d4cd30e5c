//! Workers that attach over a WebSocket: played frame by frame as the existing worker does, and by the worker's end of the session.

mod attach;
mod broker;
mod hostile;
mod live;
mod packages;
mod raw;
mod restart;
mod tls;
mod work;
