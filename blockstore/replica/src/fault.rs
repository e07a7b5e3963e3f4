//! Deliberate faults, to show that the simulation finds them. Outside of tests there are none.

/// A rule of the protocol that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "planted by the simulation only"))]
pub(crate) enum Fault {
    /// A write is answered when one replica has it.
    AnswerAtOne,
    /// A flush is answered when a quorum has written, not synced.
    FlushBeforeSync,
    /// A promise is answered before it is synced.
    PromiseUnsynced,
    /// A replica takes entries of an epoch below its promise.
    AcceptStale,
    /// A replica that lost what it had synced votes.
    VoteWithGap,
    /// A disk and run that the catalog does not know votes.
    TrustUnknown,
    /// The opening does not wait for the lease of the writer before.
    IgnoreLease,
    /// Every opening calls itself clean.
    AlwaysClean,
    /// The opening takes any log of its quorum, not the highest.
    ChooseLowest,
    /// The writer reads without a lease.
    ReadUnleased,
    /// The new set counts alone as soon as the change begins.
    SkipJoint,
    /// The opening serves before its Start is synced on a quorum.
    ServeEarly,
    /// A restarted replica claims to have lost nothing.
    ForgetLoss,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Plants a fault in this thread, or none.
#[cfg(test)]
pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

#[cfg(test)]
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

#[cfg(not(test))]
pub(crate) const fn planted(_: Fault) -> bool {
    false
}
