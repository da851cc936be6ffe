//! Reasons that no server gives: of the command line, of this machine, and of commands that do many things.

use super::error::exit;

macro_rules! own_reasons {
    ($($(#[$doc:meta])* $name:ident $text:literal $exit:expr;)*) => {
        /// Beside [`Reason`](crate::status::Reason), and as stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum OwnReason { $($(#[$doc])* $name,)* }

        impl OwnReason {
            /// In the order of docs/errors.md.
            pub const ALL: &[OwnReason] = &[$(OwnReason::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(OwnReason::$name => $text,)* }
            }

            /// The usual exit code; none where it is always somebody else's.
            pub fn exit_code(self) -> Option<u8> {
                match self { $(OwnReason::$name => $exit,)* }
            }
        }
    };
}

own_reasons! {
    /// The command line makes no sense.
    Usage "USAGE" Some(exit::USAGE);
    /// A file of this machine.
    LocalFile "LOCAL_FILE" Some(exit::OTHER);
    /// Something of this machine that has no file.
    Local "LOCAL" Some(exit::OTHER);
    /// Somebody decided otherwise in time.
    Cancelled "CANCELLED" Some(exit::OTHER);
    Partial "PARTIAL" Some(exit::PARTIAL);
    Unhealthy "UNHEALTHY" Some(exit::UNHEALTHY);
    /// Everything has been said; only the code remains.
    Exit "EXIT" None;
    Interrupted "INTERRUPTED" None;
    BrokenPipe "BROKEN_PIPE" Some(exit::OK);
}
