// Fills a file system with all that it can hold, and shows all that it holds.
//
//   tree fill|cut FOLDER TYPE     TYPE: vfat, exfat, xfs
//   tree show FOLDER              a line for each name; the fields are described at `show`
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static void die(const char *what)
{
    printf("bygone-guest: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void hex(const void *bytes, size_t len)
{
    if (len == 0) putchar('-');
    for (size_t i = 0; i < len; i++) printf("%02x", ((const unsigned char *)bytes)[i]);
}

// ---- showing

static uint64_t hash;

static void add(const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3;
}

// The blocks that hold anything else than zeroes, and their places (FNV-1a).
static void content(int fd)
{
    hash = 0xcbf29ce484222325;
    uint64_t at = 0;
    ssize_t got;
    while ((got = pread(fd, buffer, sizeof buffer, at)) > 0) {
        for (ssize_t start = 0; start < got; start += 4096) {
            size_t len = got - start < 4096 ? got - start : 4096;
            while (len > 0 && buffer[start + len - 1] == 0) len--;
            uint64_t place = at + start;
            if (len > 0) {
                add(&place, 8);
                add(buffer + start, len);
            }
        }
        at += got;
    }
    if (got < 0) die("read");
    printf(" %016lx ", hash);
}

// offset:length:place:unwritten, in bytes, joined by commas.
static void extents(int fd, const struct stat *st)
{
    static union {
        struct fiemap map;
        char room[sizeof(struct fiemap) + 200 * sizeof(struct fiemap_extent)];
    } all;
    bool any = false, last = false;
    for (uint64_t from = 0; !last;) {
        memset(&all, 0, sizeof all);
        all.map.fm_start = from;
        all.map.fm_length = FIEMAP_MAX_OFFSET;
        all.map.fm_extent_count = 200;
        if (ioctl(fd, FS_IOC_FIEMAP, &all.map) < 0) goto blocks;
        if (all.map.fm_mapped_extents == 0) break;
        for (unsigned i = 0; i < all.map.fm_mapped_extents; i++) {
            struct fiemap_extent *e = &all.map.fm_extents[i];
            printf("%s%llu:%llu:%llu:%d", any ? "," : "", e->fe_logical, e->fe_length, e->fe_physical,
                   (e->fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0);
            any = true;
            last |= (e->fe_flags & FIEMAP_EXTENT_LAST) != 0;
            from = e->fe_logical + e->fe_length;
        }
    }
    if (!any) putchar('-');
    return;
blocks:;
    int unit = 0;
    if (ioctl(fd, FIGETBSZ, &unit) < 0) die("FIGETBSZ");
    for (uint64_t i = 0; i * unit < (uint64_t)st->st_size; i++) {
        int place = i;
        if (ioctl(fd, FIBMAP, &place) < 0) die("FIBMAP");
        if (place != 0)
            printf("%s%llu:%d:%llu:0", any ? "," : "", (unsigned long long)i * unit, unit,
                   (unsigned long long)(unsigned)place * unit);
        any |= place != 0;
    }
    if (!any) putchar('-');
}

static void attributes(const char *path)
{
    static char names[64 << 10], value[64 << 10];
    ssize_t len = llistxattr(path, names, sizeof names);
    bool any = false;
    putchar(' ');
    for (char *name = names; len > 0 && name < names + len; name += strlen(name) + 1) {
        ssize_t got = lgetxattr(path, name, value, sizeof value);
        if (got < 0) die(name);
        if (any) putchar(',');
        hex(name, strlen(name));
        putchar(':');
        hex(value, got);
        any = true;
    }
    if (!any) putchar('-');
}

// PATH INODE MODE UID GID LINKS SIZE, then ATIME MTIME CTIME BTIME (seconds.nanoseconds; - for none), MAJOR:MINOR,
// TARGET CONTENT EXTENTS ATTRIBUTES. Bytes are in hexadecimal, and - where there are none.
static void show(const char *path, size_t root_len)
{
    struct stat st;
    struct statx stx;
    if (lstat(path, &st) < 0 || statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &stx) < 0) die(path);
    hex(path + root_len, strlen(path) - root_len);
    printf(" %lu %u %u %u %lu %lu %ld.%ld %ld.%ld %ld.%ld ", st.st_ino, st.st_mode, st.st_uid, st.st_gid,
           (unsigned long)st.st_nlink, (unsigned long)st.st_size, st.st_atim.tv_sec, st.st_atim.tv_nsec,
           st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
    if (stx.stx_mask & STATX_BTIME)
        printf("%lld.%u ", (long long)stx.stx_btime.tv_sec, stx.stx_btime.tv_nsec);
    else
        printf("- ");
    printf("%u:%u ", major(st.st_rdev), minor(st.st_rdev));
    if (S_ISLNK(st.st_mode)) {
        ssize_t len = readlink(path, buffer, sizeof buffer);
        if (len < 0) die(path);
        hex(buffer, len);
    } else {
        putchar('-');
    }
    if (S_ISREG(st.st_mode)) {
        int fd = open(path, O_RDONLY);
        if (fd < 0) die(path);
        content(fd);
        extents(fd, &st);
        close(fd);
    } else {
        printf(" - -");
    }
    attributes(path);
    putchar('\n');
    if (!S_ISDIR(st.st_mode)) return;
    DIR *dir = opendir(path);
    if (!dir) die(path);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char *below;
        if (asprintf(&below, "%s/%s", path, entry->d_name) < 0) die("memory");
        show(below, root_len);
        free(below);
    }
    closedir(dir);
}

// ---- filling

static const char *const names[] = {
    "plain", "README.TXT", "readme.txt2", "UPPER", "lower.ext", "Mixed.Case", "mit Leerzeichen und Ümläuten",
    "日本語のファイル名.txt", "русский файл", "عربي.txt", "e\xcc\x81 👩‍👩‍👧", "ไทย", "한국어", "many.dots.in.a.name",
    "exactly8.3ch", "longer-than-8.ext", "ÄÖÜ.TXT", "äöü-klein.txt", "a+b,c;d=e[f]", "~tilde~1", ".hidden", "no_ext.", "x",
    "Ελληνικά", "עברית", "हिन्दी", "😀",
};

static void fill_bytes(char *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++) at[i] = (char)((i * 31 + i / 256 * 7 + seed * 13) | 1);
}

static int make(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0) die(path);
    return fd;
}

static void put(const char *path, size_t len, unsigned seed)
{
    int fd = make(path);
    fill_bytes(buffer, sizeof buffer, seed);
    for (size_t at = 0; at < len; at += sizeof buffer) {
        size_t part = len - at < sizeof buffer ? len - at : sizeof buffer;
        if (pwrite(fd, buffer, part, at) != (ssize_t)part) die(path);
    }
    close(fd);
}

static void fill_common(unsigned many)
{
    char path[5000];
    static const size_t sizes[] = {0, 1, 511, 512, 513, 4095, 4096, 4097, 70000, 3000000};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        sprintf(path, "file-%zu", sizes[i]);
        put(path, sizes[i], i);
    }
    mkdir("names", 0755);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        sprintf(path, "names/%s", names[i]);
        put(path, 100 + i, i);
        sprintf(path, "names/d-%s", names[i]);
        if (mkdir(path, 0755) < 0) die(path);
        sprintf(path, "names/d-%s/%s", names[i], names[i]);
        put(path, 10, i);
    }
    sprintf(path, "names/%0255d", 7);
    put(path, 5, 1);
    // Two files that grow in turns, so that their parts do not lie side by side.
    int a = make("fragments-a"), b = make("fragments-b");
    for (unsigned i = 0; i < 40; i++) {
        fill_bytes(buffer, 9000, i);
        if (write(a, buffer, 5000 + i % 7 * 300) < 0 || write(b, buffer, 9000) < 0) die("fragments");
        fsync(i % 2 ? a : b);
    }
    close(a);
    close(b);
    // A large directory with holes.
    mkdir("large", 0755);
    for (unsigned i = 0; i < many; i++) {
        sprintf(path, "large/a name of some length %u", i);
        put(path, i % 50 ? 0 : 600, i);
    }
    for (unsigned i = 0; i < many; i += 3) {
        sprintf(path, "large/a name of some length %u", i);
        if (unlink(path) < 0) die(path);
    }
    for (unsigned i = 0; i < many; i += 30) {
        sprintf(path, "large/again %u", i);
        put(path, 10, i);
    }
    strcpy(path, "deep");
    for (unsigned i = 0; i < 40; i++) {
        if (mkdir(path, 0755) < 0) die(path);
        sprintf(path + strlen(path), "/f");
        put(path, 4, i);
        strcpy(path + strlen(path) - 1, "a deeper one");
    }
    put("read-only", 10, 3);
    chmod("read-only", 0444);
    mkdir("empty", 0755);
    static const time_t times[] = {315532800, 951782400, 1709164799, 2147483648, 4102444798};
    for (unsigned i = 0; i < 5; i++) {
        sprintf(path, "time-%u", i);
        put(path, 1, i);
        struct timespec both[2] = {{times[i], 0}, {times[i] + 2, 123456789}};
        utimensat(AT_FDCWD, path, both, 0);
    }
    rename("file-513", "names/moved here");
    unlink("file-511");
}

static void set(const char *path, const char *name, const char *value, size_t len)
{
    if (lsetxattr(path, name, value, len, 0) < 0) die(name);
}

static void fill_unix(void)
{
    char path[5000], target[1025];
    for (unsigned i = 0; i < 50; i++) {
        sprintf(path, "link-%u", i);
        if (link("file-4097", path) < 0) die(path);
    }
    static const int lengths[] = {1, 59, 200, 335, 336, 337, 500, 1000, 1023};
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        memset(target, 't', lengths[i]);
        target[lengths[i]] = 0;
        sprintf(path, "symlink-%d", lengths[i]);
        if (symlink(target, path) < 0) die(path);
    }
    mknod("null", S_IFCHR | 0640, makedev(1, 3));
    mknod("wide", S_IFBLK | 0640, makedev(259, 0x12345));
    mknod("fifo", S_IFIFO | 0600, 0);
    mknod("socket", S_IFSOCK | 0755, 0);
    put("owned", 10, 1);
    if (chown("owned", 100000, 4000000000) < 0) die("owned");
    chmod("owned", 06751);
    mkdir("sticky", 0755);
    chmod("sticky", 01777);
    static const time_t times[] = {-1, -2000000000, 0, 2147483648, 4294967301, 12884901887};
    for (unsigned i = 0; i < 6; i++) {
        sprintf(path, "unix-time-%u", i);
        put(path, 1, i);
        struct timespec both[2] = {{times[i], 5}, {times[i], 999999999}};
        utimensat(AT_FDCWD, path, both, 0);
    }
    // Attributes in the inode, in a block of their own, in many, and long ones.
    put("attributes", 10, 1);
    set("attributes", "user.a", "one", 3);
    set("attributes", "user.\xc3\xbc", "two and more", 12);
    set("attributes", "trusted.overlay.opaque", "y", 1);
    set("attributes", "security.something", "s", 1);
    set("attributes", "user.empty", "", 0);
    fill_bytes(buffer, sizeof buffer, 5);
    put("leaf", 10, 1);
    for (unsigned i = 0; i < 20; i++) {
        sprintf(path, "user.name-%u", i);
        set("leaf", path, buffer, 50 + i);
    }
    put("nodes", 10, 1);
    for (unsigned i = 0; i < 400; i++) {
        sprintf(path, "user.name-of-some-length-%u", i);
        set("nodes", path, buffer, i % 90);
    }
    put("long", 10, 1);
    set("long", "user.long", buffer, 65536);
    set("long", "user.middle", buffer, 5000);
    set("long", "user.short", buffer, 7);
    mkdir("listed", 0755);
    static const unsigned char list[] = {2,0,0,0, 1,0,6,0,255,255,255,255, 2,0,7,0,232,3,0,0, 4,0,4,0,255,255,255,255,
        16,0,7,0,255,255,255,255, 32,0,0,0,255,255,255,255};
    set("listed", "system.posix_acl_access", (const char *)list, sizeof list);
    set("listed", "system.posix_acl_default", (const char *)list, sizeof list);
    put("listed/inherits", 1, 1);
    // Holes, reserved places, and a map of extents with several levels.
    int fd = make("sparse");
    if (pwrite(fd, "beginning", 9, 5) < 0 || pwrite(fd, "middle", 6, 7 << 20) < 0) die("sparse");
    if (ftruncate(fd, 20 << 20) < 0) die("sparse");
    close(fd);
    fd = make("scattered");
    for (unsigned i = 0; i < 1500; i++) {
        fill_bytes(buffer, 900, i);
        if (pwrite(fd, buffer, 900, i * 16384L) < 0) die("scattered");
    }
    close(fd);
    fd = make("reserved");
    if (fallocate(fd, 0, 0, 1 << 20) == 0 && pwrite(fd, buffer, 5000, 300000) < 0) die("reserved");
    close(fd);
    // The same blocks in two files, where that is possible.
    int source = open("file-3000000", O_RDONLY);
    fd = make("reflink");
    if (ioctl(fd, FICLONE, source) == 0 && pwrite(fd, "changed", 7, 1000000) < 0) die("reflink");
    close(fd);
    close(source);
}

// Changes all kinds of things until the disk is taken away.
static void load(const char *root, unsigned worker)
{
    char path[300];
    for (unsigned i = 0;; i++) {
        sprintf(path, "%s/w%u-%u", root, worker, i % 40);
        int fd = open(path, O_RDWR | O_CREAT | (i % 3 ? O_TRUNC : O_APPEND), 0644);
        if (fd < 0) exit(0);
        fill_bytes(buffer, 30000, i);
        if (write(fd, buffer, 200 + i * 977 % 29000) < 0) exit(0);
        if (i % 5 == 0 && fsync(fd) < 0) exit(0);
        if (i % 4 == 0) fsetxattr(fd, "user.n", buffer, 1 + i * 37 % 3000, 0);
        close(fd);
        char other[300];
        sprintf(other, "%s/d%u-%u", root, worker, i % 30);
        if (i % 7 == 3 && mkdir(other, 0755) < 0) rmdir(other);
        sprintf(other, "%s/r%u-%u", root, worker, i % 60);
        if (i % 7 == 0) rename(path, other);
        if (i % 7 == 1) unlink(path);
        if (i % 7 == 2 && symlink(path, other) < 0) unlink(other);
    }
}

int main(int count, char **arguments)
{
    if (count < 3) return 2;
    if (!strcmp(arguments[1], "show")) {
        show(arguments[2], strlen(arguments[2]));
        return 0;
    }
    bool is_unix = count > 3 && !strcmp(arguments[3], "xfs");
    umask(022);
    if (chdir(arguments[2]) < 0) die(arguments[2]);
    fill_common(is_unix ? 3000 : 250);
    if (is_unix) fill_unix();
    if (!strcmp(arguments[1], "cut")) {
        sync();
        for (unsigned worker = 0; worker < 3; worker++)
            if (fork() == 0) load(arguments[2], worker);
        sleep(3);
        int fd = open(".", O_RDONLY), how = 2; // without flushing the log
        if (ioctl(fd, _IOR('X', 125, uint32_t), &how) < 0) die("shutdown");
        while (wait(NULL) > 0) continue;
        close(fd);
    }
    if (chdir("/") < 0) die("/");
    return 0;
}
