//! Which system call has which number on which ABI.
//!
//! Sources: the `syscall_64.tbl` and `syscall_32.tbl` of x86, and `asm-generic/unistd.h`, all of Linux.
//! A call of i386 that has a form with wider ids or structures goes by the name of that form; the older form has a name
//! that ends with `16`, `Old` or `Oldest`.

/// An application binary interface that the kernel of this machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Abi {
    /// 64-bit calls of x86; x32 is not among them.
    X86_64,
    /// 32-bit calls of x86.
    I386,
    /// 64-bit calls of ARM.
    Aarch64,
}

impl Abi {
    /// All that programs of this machine can use and a filter knows. What is not here, a filter refuses.
    pub(in super::super) const ALL: &[Self] = if cfg!(target_arch = "x86_64") {
        &[Self::X86_64, Self::I386]
    } else if cfg!(target_arch = "aarch64") {
        &[Self::Aarch64]
    } else {
        &[]
    };

    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(in super::super) fn architecture(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The ABI with this `AUDIT_ARCH_*`.
    pub(in super::super) fn of_architecture(architecture: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|abi| abi.architecture() == architecture)
    }

    /// The call with this number, if it is one of those that have a name here.
    pub(in super::super) fn call(self, number: u32) -> Option<Call> {
        Call::ALL.iter().copied().find(|call| call.number(self) == Some(number))
    }
}

macro_rules! calls {
    (@number _) => { None };
    (@number $number:literal) => { Some($number) };
    ($($name:ident $x86_64:tt $i386:tt $aarch64:tt;)*) => {
        /// A system call that some filter has a rule for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in super::super) enum Call { $($name,)* }

        impl Call {
            /// All of them, those of which there are the most first.
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its number on `abi`, which may not have it.
            pub(in super::super) fn number(self, abi: Abi) -> Option<u32> {
                let [x86_64, i386, aarch64]: [Option<u32>; 3] = match self {
                    $(Self::$name => [
                        calls!(@number $x86_64), calls!(@number $i386), calls!(@number $aarch64),
                    ],)*
                };
                match abi {
                    Abi::X86_64 => x86_64,
                    Abi::I386 => i386,
                    Abi::Aarch64 => aarch64,
                }
            }
        }
    };
}

// The name; its numbers on x86_64, i386 and aarch64.
calls! {
    Stat 4 195 _;
    Lstat 6 196 _;
    Fstat 5 197 80;
    Fstatat 262 300 79;
    Statx 332 383 291;
    StatOld _ 106 _;
    StatOldest _ 18 _;
    LstatOld _ 107 _;
    LstatOldest _ 84 _;
    FstatOld _ 108 _;
    FstatOldest _ 28 _;
    Chown 92 212 _;
    Chown16 _ 182 _;
    Lchown 94 198 _;
    Lchown16 _ 16 _;
    Fchown 93 207 55;
    Fchown16 _ 95 _;
    Fchownat 260 298 54;
    Open 2 5 _;
    Openat 257 295 56;
    Openat2 437 437 437;
    Creat 85 8 _;
    Mkdir 83 39 _;
    Mkdirat 258 296 34;
    Symlink 88 83 _;
    Symlinkat 266 304 36;
    Mknod 133 14 _;
    Mknodat 259 297 33;
    Getuid 102 199 174;
    Getuid16 _ 24 _;
    Geteuid 107 201 175;
    Geteuid16 _ 49 _;
    Getgid 104 200 176;
    Getgid16 _ 47 _;
    Getegid 108 202 177;
    Getegid16 _ 50 _;
    Getresuid 118 209 148;
    Getresuid16 _ 165 _;
    Getresgid 120 211 150;
    Getresgid16 _ 171 _;
    Setuid 105 213 146;
    Setuid16 _ 23 _;
    Setgid 106 214 144;
    Setgid16 _ 46 _;
    Setreuid 113 203 145;
    Setreuid16 _ 70 _;
    Setregid 114 204 143;
    Setregid16 _ 71 _;
    Setresuid 117 208 147;
    Setresuid16 _ 164 _;
    Setresgid 119 210 149;
    Setresgid16 _ 170 _;
    Setfsuid 122 215 151;
    Setfsuid16 _ 138 _;
    Setfsgid 123 216 152;
    Setfsgid16 _ 139 _;
    Getgroups 115 205 158;
    Getgroups16 _ 80 _;
    Setgroups 116 206 159;
    Setgroups16 _ 81 _;
    Listxattr 194 232 11;
    Llistxattr 195 233 12;
    Flistxattr 196 234 13;
    Listxattrat 465 465 465;
    Execve 59 11 221;
    Execveat 322 358 281;
    Prctl 157 172 167;
    Capset 126 185 91;
    Chroot 161 61 51;
    Setrlimit 160 75 164;
    Prlimit64 302 340 261;
    Getsockopt 55 365 209;
    Socketcall _ 102 _;
    Acct 163 51 89;
    AddKey 248 286 217;
    Bpf 321 357 280;
    ClockAdjtime 305 343 266;
    ClockSettime 227 264 112;
    Clone 56 120 220;
    Clone3 435 435 435;
    CreateModule 174 127 _;
    DeleteModule 176 129 106;
    FanotifyInit 300 338 262;
    FinitModule 313 350 273;
    Fsconfig 431 431 431;
    Fsmount 432 432 432;
    Fsopen 430 430 430;
    Fspick 433 433 433;
    GetKernelSyms 177 130 _;
    GetMempolicy 239 275 236;
    InitModule 175 128 105;
    IoUringEnter 426 426 426;
    IoUringRegister 427 427 427;
    IoUringSetup 425 425 425;
    Ioperm 173 101 _;
    Iopl 172 110 _;
    Kcmp 312 349 272;
    KexecFileLoad 320 _ 294;
    KexecLoad 246 283 104;
    Keyctl 250 288 219;
    LookupDcookie 212 253 18;
    Mbind 237 274 235;
    Mount 165 21 40;
    MountSetattr 442 442 442;
    MoveMount 429 429 429;
    MovePages 279 317 239;
    Nfsservctl 180 169 42;
    OpenByHandleAt 304 342 265;
    OpenTree 428 428 428;
    PerfEventOpen 298 336 241;
    Personality 135 136 92;
    PidfdGetfd 438 438 438;
    PivotRoot 155 217 41;
    ProcessMadvise 440 440 440;
    QueryModule 178 167 _;
    Quotactl 179 131 60;
    QuotactlFd 443 443 443;
    Reboot 169 88 142;
    RequestKey 249 287 218;
    SetMempolicy 238 276 237;
    SetMempolicyHomeNode 450 450 450;
    Setdomainname 171 121 162;
    Sethostname 170 74 161;
    Setns 308 346 268;
    Settimeofday 164 79 170;
    Socket 41 359 198;
    Stime _ 25 _;
    Swapoff 168 115 225;
    Swapon 167 87 224;
    Sysfs 139 135 _;
    Syslog 103 103 116;
    Umount2 166 52 39;
    Unshare 272 310 97;
    Uselib 134 86 _;
    Userfaultfd 323 374 282;
    Ustat 136 62 _;
    Vhangup 153 111 58;
    Vm86 _ 166 _;
    Vm86old _ 113 _;
    Umount _ 22 _;
    Sysctl 156 149 _;
    ClockSettime64 _ 404 _;
    ClockAdjtime64 _ 405 _;
    Access 21 33 _;
    Faccessat 269 307 48;
    Faccessat2 439 439 439;
    Readlink 89 85 _;
    Readlinkat 267 305 78;
    Statfs 137 99 43;
    Chmod 90 15 _;
    Fchmodat 268 306 53;
    Chdir 80 12 49;
    Getcwd 79 183 17;
    Utimensat 280 320 88;
    Truncate 76 193 45;
    Setxattr 188 226 5;
    Lsetxattr 189 227 6;
    Getxattr 191 229 8;
    Lgetxattr 192 230 9;
    Removexattr 197 235 14;
    Lremovexattr 198 236 15;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_this_machine_are_those_of_its_c_library() {
        let Some(&native) = Abi::ALL.first() else { return };
        for (call, number) in [
            (Call::Fstatat, libc::SYS_newfstatat),
            (Call::Statx, libc::SYS_statx),
            (Call::Fchownat, libc::SYS_fchownat),
            (Call::Openat2, libc::SYS_openat2),
            (Call::Setresuid, libc::SYS_setresuid),
            (Call::Clone3, libc::SYS_clone3),
            (Call::Umount2, libc::SYS_umount2),
            (Call::QuotactlFd, libc::SYS_quotactl_fd),
        ] {
            assert_eq!(call.number(native).map(i64::from), Some(number), "{call:?}");
            assert_eq!(native.call(u32::try_from(number).unwrap()), Some(call));
        }
    }

    #[test]
    fn no_two_calls_of_an_abi_share_a_number() {
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64] {
            let mut numbers: Vec<u32> = Call::ALL.iter().filter_map(|call| call.number(abi)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }
}
