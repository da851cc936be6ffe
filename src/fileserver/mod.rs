//! fileserver
