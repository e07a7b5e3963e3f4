//! Hosts and instances through libvirt
