//! The commands, one file or folder each.

pub(crate) mod bench;
pub(crate) mod create;
pub(crate) mod demo;
pub(crate) mod dlq;
pub(crate) mod down;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod group;
pub(crate) mod info;
pub(crate) mod lag;
pub(crate) mod ls;
pub(crate) mod ps;
pub(crate) mod publish;
pub(crate) mod quota;
mod receipt;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod subscribe;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod up;
