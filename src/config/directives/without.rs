//! The directives of systemd 252 to 259 that do nothing here, grouped by the reason.

use super::row::Section::{self, Install, Service, Socket, Unit};
use super::row::Support::{self, Inert, NotHonoured};

/// Keys of one section with the same verdict.
pub(super) struct Without {
    pub section: Section,
    /// Whether [Socket] knows them as well: keys of systemd.exec(5), systemd.kill(5) and systemd.resource-control(5).
    pub shared: bool,
    pub support: Support,
    pub keys: &'static [&'static str],
}

const fn of(section: Section, support: Support, keys: &'static [&'static str]) -> Without {
    Without { section, shared: false, support, keys }
}

const fn shared(support: Support, keys: &'static [&'static str]) -> Without {
    Without { section: Service, shared: true, support, keys }
}

const NO_SANDBOX: Support =
    NotHonoured("supervise does not sandbox the server; run it in a container or under systemd for that");
const NO_CGROUP: Support =
    NotHonoured("supervise sets no cgroup limits; run it in a container or under systemd for that");
const NO_CONDITION: Support =
    NotHonoured("supervise starts what it is told to start; ExecCondition= can test this");
const NO_SCHEDULING: Support =
    NotHonoured("of scheduling supervise knows Nice= alone; begin ExecStart= with chrt, ionice or taskset");
const NO_JOURNAL: Support = Inert("the server writes to our own stdout and stderr, not to a journal");
const NO_TERMINAL: Support = Inert("no terminal is handed over");
const ONE_SERVICE: Support = Inert("supervise runs this service alone and knows no other units");
const NO_SYSTEM: Support = Inert("there is no system manager that could be asked for this");
const NO_ACCOUNTS: Support = Inert("it only counts, and limits nothing");
const INSTALLED: Support = Inert("it says who starts the unit; you did");
const OTHER_KIND: Support = Inert("it is for a kind of socket that this version does not hold");
const LOST: Support =
    NotHonoured("this version holds no such kind of socket; use ListenStream= or ListenDatagram=");
const NO_ACTION: Support =
    NotHonoured("supervise ends no system; with StartLimitAction=exit it ends itself when it gives up");
const NO_LABELS: Support = NotHonoured("supervise sets no security labels");

#[rustfmt::skip]
pub(super) const WITHOUT: &[Without] = &[
    of(Unit, ONE_SERVICE, &[
        "Documentation", "SourcePath", "Requires", "Requisite", "Wants", "BindsTo", "BindTo", "Upholds", "Conflicts",
        "Before", "After", "PropagatesReloadTo", "PropagateReloadTo",
        "ReloadPropagatedFrom", "PropagateReloadFrom", "PropagatesStopTo", "StopPropagatedFrom", "PartOf",
        "RequiresOverridable", "RequisiteOverridable", "RequiresMountsFor", "WantsMountsFor", "StopWhenUnneeded",
        "RefuseManualStart", "RefuseManualStop", "AllowIsolate", "DefaultDependencies", "SurviveFinalKillSignal",
        "OnSuccessJobMode", "OnFailureJobMode", "OnFailureIsolate", "IgnoreOnIsolate", "IgnoreOnSnapshot",
        "CollectMode",
    ]),
    of(Unit, NotHonoured("supervise starts no other unit; ExecStopPost= sees $SERVICE_RESULT"), &[
        "OnSuccess", "OnFailure",
    ]),
    of(Unit, NO_SYSTEM, &[
        "JobTimeoutSec", "JobRunningTimeoutSec", "JobTimeoutAction", "JobTimeoutRebootArgument", "RebootArgument",
        "FailureActionExitStatus", "SuccessActionExitStatus",
    ]),
    of(Unit, NO_ACTION, &["FailureAction", "SuccessAction"]),
    of(Unit, NO_SANDBOX, &["JoinsNamespaceOf"]),
    of(Unit, NO_CONDITION, &[
        "ConditionPathExists", "ConditionPathExistsGlob", "ConditionPathIsDirectory", "ConditionPathIsSymbolicLink",
        "ConditionPathIsMountPoint", "ConditionPathIsReadWrite", "ConditionPathIsEncrypted",
        "ConditionDirectoryNotEmpty", "ConditionFileNotEmpty", "ConditionFileIsExecutable", "ConditionNeedsUpdate",
        "ConditionFirstBoot", "ConditionArchitecture", "ConditionFirmware", "ConditionVirtualization",
        "ConditionHost", "ConditionKernelCommandLine", "ConditionKernelVersion", "ConditionVersion",
        "ConditionCredential", "ConditionSecurity", "ConditionCapability", "ConditionACPower", "ConditionMemory",
        "ConditionCPUFeature", "ConditionCPUs", "ConditionEnvironment", "ConditionUser", "ConditionGroup",
        "ConditionControlGroupController", "ConditionOSRelease", "ConditionMemoryPressure", "ConditionCPUPressure",
        "ConditionIOPressure", "ConditionKernelModuleLoaded",
        "AssertPathExists", "AssertPathExistsGlob", "AssertPathIsDirectory", "AssertPathIsSymbolicLink",
        "AssertPathIsMountPoint", "AssertPathIsReadWrite", "AssertPathIsEncrypted", "AssertDirectoryNotEmpty",
        "AssertFileNotEmpty", "AssertFileIsExecutable", "AssertNeedsUpdate", "AssertFirstBoot",
        "AssertArchitecture", "AssertVirtualization", "AssertHost", "AssertKernelCommandLine",
        "AssertKernelVersion", "AssertVersion", "AssertCredential", "AssertSecurity", "AssertCapability",
        "AssertACPower", "AssertMemory", "AssertCPUFeature", "AssertCPUs", "AssertEnvironment", "AssertUser",
        "AssertGroup", "AssertControlGroupController", "AssertOSRelease", "AssertMemoryPressure",
        "AssertCPUPressure", "AssertIOPressure", "AssertKernelModuleLoaded",
    ]),
    of(Install, INSTALLED, &["Alias", "WantedBy", "RequiredBy", "UpheldBy", "Also", "DefaultInstance"]),
    of(Service, Inert("there are no dependents that a restart could hit"), &["RestartMode"]),
    of(Service, NO_SYSTEM, &["RebootArgument", "SysVStartPriority"]),
    of(Service, NO_ACTION, &["FailureAction"]),
    of(Service, NotHonoured("write `+` before the commands that need full privileges"), &["PermissionsStartOnly"]),
    of(Service, NO_SANDBOX, &["RootDirectoryStartOnly"]),
    of(Service, NotHonoured("there is no bus to wait for"), &["BusName", "BusPolicy"]),
    of(Service, NotHonoured("supervise drives no USB functions"), &["USBFunctionDescriptors", "USBFunctionStrings"]),
    of(Service, NO_CGROUP, &["OOMPolicy"]),
    //
    shared(NO_SANDBOX, &[
        "RootDirectory", "RootImage", "RootImageOptions", "RootImagePolicy", "RootHash", "RootHashSignature",
        "RootVerity", "RootEphemeral", "ExtensionDirectories", "ExtensionImages", "ExtensionImagePolicy",
        "MountImages", "MountImagePolicy", "DynamicUser", "RemoveIPC", "SecureBits", "CapabilityBoundingSet",
        "AmbientCapabilities", "Capabilities", "NoNewPrivileges", "KeyringMode", "ProtectProc", "ProcSubset",
        "PrivateBPF", "BPFDelegateCommands", "BPFDelegateMaps", "BPFDelegatePrograms", "BPFDelegateAttachments",
        "SystemCallFilter", "SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallLog",
        "MemoryDenyWriteExecute", "RestrictNamespaces", "DelegateNamespaces", "RestrictRealtime",
        "RestrictSUIDSGID", "RestrictAddressFamilies", "RestrictFileSystems", "LockPersonality", "LandlockConfig",
        "ReadWriteDirectories", "ReadOnlyDirectories", "InaccessibleDirectories", "ReadWritePaths", "ReadOnlyPaths",
        "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem",
        "PrivateTmp", "PrivateDevices", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
        "ProtectClock", "ProtectControlGroups", "ProtectHostname", "NetworkNamespacePath", "IPCNamespacePath",
        "UserNamespacePath", "PrivateNetwork", "PrivateUsers", "PrivateMounts", "PrivateIPC", "PrivatePIDs",
        "ProtectSystem", "ProtectHome", "MountFlags", "MountAPIVFS", "BindLogSockets", "Personality",
        "SELinuxContext", "AppArmorProfile", "SmackProcessLabel",
    ]),
    shared(NotHonoured("supervise opens no PAM session"), &["PAMName"]),
    shared(NotHonoured("supervise hands over no credentials; use EnvironmentFile=, OpenFile= or a file"), &[
        "SetCredential", "SetCredentialEncrypted", "LoadCredential", "LoadCredentialEncrypted", "ImportCredential",
    ]),
    shared(NotHonoured("USER, LOGNAME, HOME and SHELL are set exactly when User= is given"), &["SetLoginEnvironment"]),
    shared(NotHonoured("supervise keeps no quota on directories"), &[
        "StateDirectoryQuota", "StateDirectoryAccounting", "CacheDirectoryQuota", "CacheDirectoryAccounting",
        "LogsDirectoryQuota", "LogsDirectoryAccounting",
    ]),
    shared(NO_SCHEDULING, &[
        "IOSchedulingClass", "IOSchedulingPriority", "CPUSchedulingPolicy", "CPUSchedulingPriority",
        "CPUSchedulingResetOnFork", "CPUAffinity", "NUMAPolicy", "NUMAMask", "TimerSlackNSec", "MemoryKSM",
    ]),
    shared(NotHonoured("the kernel's default decides what a core dump holds"), &["CoredumpFilter"]),
    shared(NO_TERMINAL, &["TTYPath", "TTYReset", "TTYVHangup", "TTYVTDisallocate", "TTYRows", "TTYColumns",
        "UtmpIdentifier", "UtmpMode"]),
    shared(NO_JOURNAL, &[
        "SyslogIdentifier", "SyslogFacility", "SyslogLevel", "SyslogLevelPrefix", "LogLevelMax",
        "LogRateLimitIntervalSec", "LogRateLimitBurst", "LogExtraFields", "LogFilterPatterns", "LogNamespace",
    ]),
    shared(NO_SYSTEM, &["TimeoutCleanSec"]),
    shared(NO_ACCOUNTS, &[
        "CPUAccounting", "MemoryAccounting", "IOAccounting", "BlockIOAccounting", "TasksAccounting", "IPAccounting",
    ]),
    shared(NO_CGROUP, &[
        "Slice", "AllowedCPUs", "StartupAllowedCPUs", "AllowedMemoryNodes", "StartupAllowedMemoryNodes", "CPUWeight",
        "StartupCPUWeight", "CPUShares", "StartupCPUShares", "CPUQuota", "CPUQuotaPeriodSec", "MemoryMin",
        "DefaultMemoryMin", "DefaultMemoryLow", "DefaultStartupMemoryLow", "MemoryLow", "StartupMemoryLow",
        "MemoryHigh", "StartupMemoryHigh", "MemoryMax", "StartupMemoryMax", "MemorySwapMax", "StartupMemorySwapMax",
        "MemoryZSwapMax", "StartupMemoryZSwapMax", "MemoryZSwapWriteback", "MemoryLimit", "DeviceAllow",
        "DevicePolicy", "IOWeight", "StartupIOWeight", "IODeviceWeight", "IOReadBandwidthMax", "IOWriteBandwidthMax",
        "IOReadIOPSMax", "IOWriteIOPSMax", "IODeviceLatencyTargetSec", "BlockIOWeight", "StartupBlockIOWeight",
        "BlockIODeviceWeight", "BlockIOReadBandwidth", "BlockIOWriteBandwidth", "TasksMax", "Delegate",
        "DelegateSubgroup", "DisableControllers", "IPAddressAllow", "IPAddressDeny", "IPIngressFilterPath",
        "IPEgressFilterPath", "ManagedOOMSwap", "ManagedOOMMemoryPressure", "ManagedOOMMemoryPressureLimit",
        "ManagedOOMMemoryPressureDurationSec", "ManagedOOMPreference", "NetClass", "BPFProgram", "SocketBindAllow",
        "SocketBindDeny", "RestrictNetworkInterfaces", "MemoryPressureThresholdSec", "MemoryPressureWatch", "NFTSet",
        "CoredumpReceive",
    ]),
    //
    of(Socket, LOST, &["ListenFIFO", "ListenNetlink", "ListenSpecial", "ListenMessageQueue", "ListenUSBFunction"]),
    of(Socket, OTHER_KIND, &["Writable", "PipeSize", "MessageQueueMaxMessages", "MessageQueueMessageSize"]),
    of(Socket, Inert("it belongs to Accept=yes"), &["MaxConnections", "MaxConnectionsPerSource"]),
    of(Socket, Inert("the server is up at once; no job can be in its way"), &["DeferTrigger", "DeferTriggerMaxSec"]),
    of(Socket, NotHonoured("queued connections are kept for the next generation"), &["FlushPending"]),
    of(Socket, NotHonoured("the sockets are passed to the service alone"), &["PassFileDescriptorsToExec"]),
    of(Socket, NotHonoured("this option of unix sockets is left as the kernel has it"),
        &["PassPIDFD", "AcceptFileDescriptors"]),
    of(Socket, NO_LABELS, &["SmackLabel", "SmackLabelIPIn", "SmackLabelIPOut", "SELinuxContextFromNet"]),
];
