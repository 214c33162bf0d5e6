// The work of the mini guest: writes that say what they are, so that whoever reads the disk later (from the host, from
// another moment, after a crash) can tell what must be there and what may be.
//
// Every block of 4096 bytes written here is a *marked block*:
//     bytes 0..     one line of text: "bygone-counter N\n" or "bygone-io LBA GENERATION\n" (decimal; LBA in blocks)
//     up to 4079    filler made from these numbers: repeated lines for the counter, noise for -io
//     4079..4095    FNV-1a (64 bit) of bytes 0..4079, 16 lower-case hexadecimal digits
//     4095          '\n'
//
// Promises, in the order of the lines on the console:
//     begin N       comes before the first byte of N is written, and has left the serial port by then
//     done N        comes after N is written and flushed: from here on, N or a later one must be on the disk
// Options are read from the kernel command line: "bygone.count=100".

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { block_bytes = 4096, body_bytes = 4079 };

static volatile sig_atomic_t stopped;
static atomic_bool failed;

static void on_stop(int signal) {
    (void)signal;
    stopped = 1;
}

// One line, in one write, so that lines of different threads do not mix.
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    int bytes = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (bytes > (int)sizeof line - 2) bytes = sizeof line - 2;
    line[bytes++] = '\n';
    for (int at = 0; at < bytes;) {
        ssize_t wrote = write(STDOUT_FILENO, line + at, (size_t)(bytes - at));
        if (wrote <= 0 && errno != EINTR) return;
        if (wrote > 0) at += (int)wrote;
    }
}

static void io_error(const char *what, const char *where, uint64_t number) {
    int error = errno;
    atomic_store(&failed, true);
    say("IOERROR %s %s %llu: %s", what, where, (unsigned long long)number, strerror(error));
}

static uint64_t option(const char *name, uint64_t fallback) {
    static char line[4096];
    if (!line[0]) {
        int file = open("/proc/cmdline", O_RDONLY);
        ssize_t bytes = file < 0 ? 0 : read(file, line + 1, sizeof line - 2);
        close(file);
        line[0] = ' ';
        line[bytes > 0 ? bytes + 1 : 1] = 0;
    }
    char key[64];
    snprintf(key, sizeof key, " bygone.%s=", name);
    for (const char *at = line; (at = strstr(at, key)); at++) fallback = strtoull(at + strlen(key), NULL, 10);
    return fallback;
}

static void sleep_ms(uint64_t ms) {
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    if (ms && !stopped) nanosleep(&time, NULL);
}

static uint64_t fnv1a(const unsigned char *bytes, size_t count) {
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < count; i++) hash = (hash ^ bytes[i]) * 0x100000001b3;
    return hash;
}

static void seal(unsigned char *block) {
    char digits[18];
    snprintf(digits, sizeof digits, "%016llx\n", (unsigned long long)fnv1a(block, body_bytes));
    memcpy(block + body_bytes, digits, 17);
}

static bool sealed(const unsigned char *block) {
    unsigned char copy[block_bytes];
    memcpy(copy, block, body_bytes);
    seal(copy);
    return !memcmp(copy, block, block_bytes);
}

// ---- counters

static void counter_block(unsigned char *block, uint64_t count) {
    char line[64];
    size_t bytes = (size_t)snprintf(line, sizeof line, "bygone-counter %llu\n", (unsigned long long)count);
    for (size_t at = 0; at < body_bytes; at++) block[at] = (unsigned char)line[at % bytes];
    seal(block);
}

// The counter a disk or file holds: 0 when it never held one.
static uint64_t counter_found(int file, const char *where) {
    unsigned char block[block_bytes + 1] = {0};
    unsigned long long count = 0;
    if (pread(file, block, block_bytes, 0) < 0) io_error("read", where, 0);
    if (sscanf((char *)block, "bygone-counter %llu\n", &count) == 1 && !sealed(block)) {
        say("MISMATCH %s 0: a counter with a wrong checksum", where);
        atomic_store(&failed, true);
    }
    say("found %llu %s", count, where);
    return count;
}

static bool put(int file, const char *where, const unsigned char *block, uint64_t at, uint64_t count) {
    ssize_t wrote = pwrite(file, block, block_bytes, (off_t)(at * block_bytes));
    if (wrote == block_bytes) return true;
    if (wrote >= 0) errno = EIO;
    io_error("write", where, count);
    return false;
}

static bool flush(int file, const char *where, uint64_t count) {
    if (!fsync(file)) return true;
    io_error("flush", where, count);
    return false;
}

// Counts on: from what is there, for bygone.count steps (0: no end), bygone.delay_ms apart. `step` writes and flushes.
static int count_up(uint64_t found, bool (*step)(uint64_t count, const unsigned char *block)) {
    uint64_t steps = option("count", 0), delay_ms = option("delay_ms", 100);
    uint64_t count = option("first", found + 1) - 1;
    unsigned char block[block_bytes];
    for (uint64_t i = 0; !stopped && !atomic_load(&failed) && (!steps || i < steps); i++) {
        counter_block(block, count + 1);
        say("begin %llu", (unsigned long long)count + 1);
        tcdrain(STDOUT_FILENO);
        if (!step(count + 1, block)) break;
        say("done %llu", (unsigned long long)++count);
        sleep_ms(delay_ms);
    }
    say("finished %s %llu", atomic_load(&failed) ? "failed" : "ok", (unsigned long long)count);
    return atomic_load(&failed);
}

static int disk_a = -1, disk_b = -1;
static uint64_t slots;

// Block 0 always holds the newest counter; N is also at block 1 + N % slots, written first.
static bool step_one_disk(uint64_t count, const unsigned char *block) {
    return put(disk_a, "/dev/vda", block, 1 + count % slots, count) && put(disk_a, "/dev/vda", block, 0, count) &&
           flush(disk_a, "/dev/vda", count);
}

static bool step_two_disks(uint64_t count, const unsigned char *block) {
    return put(disk_a, "/dev/vda", block, 0, count) && flush(disk_a, "/dev/vda", count) &&
           put(disk_b, "/dev/vdb", block, 0, count) && flush(disk_b, "/dev/vdb", count);
}

static int open_disk(const char *path, int flags, uint64_t *blocks) {
    uint64_t bytes = 0;
    int disk = open(path, O_RDWR | O_CLOEXEC | flags);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes)) {
        io_error("open", path, 0);
        exit(1);
    }
    *blocks = bytes / block_bytes;
    return disk;
}

static int run_counter(void) {
    uint64_t blocks;
    disk_a = open_disk("/dev/vda", 0, &blocks);
    slots = option("slots", 1024);
    if (slots > blocks - 1) slots = blocks - 1;
    if (slots < 1) slots = 1;
    return count_up(counter_found(disk_a, "/dev/vda"), step_one_disk);
}

static int run_two_disks(void) {
    uint64_t blocks;
    disk_a = open_disk("/dev/vda", 0, &blocks);
    disk_b = open_disk("/dev/vdb", 0, &blocks);
    uint64_t a = counter_found(disk_a, "/dev/vda"), b = counter_found(disk_b, "/dev/vdb");
    if (a != b && a != b + 1) say("MISMATCH /dev/vdb 0: the second disk is not one power cut from the first");
    return count_up(a, step_two_disks);
}

// ---- a counter in a file on ext4, with files coming and going beside it

static int counter_file = -1;

static bool churn(uint64_t count, const unsigned char *block) {
    char name[64], other[64];
    snprintf(name, sizeof name, "/mnt/churn/%llu", (unsigned long long)count);
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0 || write(file, block, 1 + count * 97 % block_bytes) < 0) {
        io_error("create", name, count);
        close(file);
        return false;
    }
    close(file);
    if (count % 4 == 0) {
        snprintf(other, sizeof other, "/mnt/churn/renamed-%llu", (unsigned long long)count % 32);
        if (rename(name, other)) io_error("rename", name, count);
    }
    snprintf(name, sizeof name, "/mnt/churn/%llu", (unsigned long long)count - 16);
    if (unlink(name) && errno != ENOENT) io_error("unlink", name, count);
    return !atomic_load(&failed);
}

static bool step_file(uint64_t count, const unsigned char *block) {
    return churn(count, block) && put(counter_file, "/counter", block, 0, count) &&
           flush(counter_file, "/counter", count);
}

static int run_ext4_counter(void) {
    if (mount("/dev/vda", "/mnt", "ext4", 0, "")) {
        io_error("mount", "/dev/vda", 0);
        return 1;
    }
    say("mounted /dev/vda");
    mkdir("/mnt/churn", 0755);
    counter_file = open("/mnt/counter", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (counter_file < 0) io_error("open", "/counter", 0);
    int result = count_up(counter_found(counter_file, "/counter"), step_file);
    close(counter_file);
    if (umount("/mnt")) {
        io_error("unmount", "/dev/vda", 0);
        return 1;
    }
    say("unmounted /dev/vda");
    return result;
}

// ---- verified random I/O

enum { run_blocks_max = 16, unknown = 0, zeroes = UINT32_MAX };

struct worker {
    pthread_t thread;
    int disk;
    uint64_t first, blocks;  // the part of the disk that is this worker's own
    uint32_t *generations;   // what each block must hold: a generation, `zeroes`, or `unknown`
    uint64_t random;
    atomic_ullong operations;
};

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void io_block(unsigned char *block, uint64_t lba, uint32_t generation) {
    char line[64];
    int bytes = snprintf(line, sizeof line, "bygone-io %llu %u\n", (unsigned long long)lba, generation);
    uint64_t state = (lba << 32 | generation) * 0x9e3779b97f4a7c15 + 1;
    for (size_t at = 0; at < block_bytes; at += 8) {
        uint64_t noise = next_random(&state);
        memcpy(block + at, &noise, 8);
    }
    memcpy(block, line, (size_t)bytes);
    seal(block);
}

static bool verified(const unsigned char *block, uint64_t lba, uint32_t generation) {
    unsigned char expected[block_bytes] = {0};
    if (generation == unknown) return true;
    if (generation != zeroes) io_block(expected, lba, generation);
    if (!memcmp(block, expected, block_bytes)) return true;
    char start[40] = {0};
    for (size_t i = 0; i < sizeof start - 1 && block[i] >= ' ' && block[i] < 127; i++) start[i] = (char)block[i];
    atomic_store(&failed, true);
    say("MISMATCH /dev/vda %llu: expected generation %d, found '%s' (checksum %s)", (unsigned long long)lba,
        (int)generation, start, sealed(block) ? "right" : "wrong");
    return false;
}

static bool read_back(struct worker *worker, unsigned char *buffer, uint64_t at, uint64_t count) {
    ssize_t bytes = pread(worker->disk, buffer, count * block_bytes, (off_t)((worker->first + at) * block_bytes));
    if (bytes != (ssize_t)(count * block_bytes)) {
        if (bytes >= 0) errno = EIO;
        io_error("read", "/dev/vda", worker->first + at);
        return false;
    }
    for (uint64_t i = 0; i < count; i++)
        if (!verified(buffer + i * block_bytes, worker->first + at + i, worker->generations[at + i])) return false;
    return true;
}

// Zeroes (or, when `keep_nothing`, discards) blocks; a disk that cannot discard is left as it was.
static void clear(struct worker *worker, uint64_t at, uint64_t count, bool keep_nothing) {
    uint64_t range[2] = {(worker->first + at) * block_bytes, count * block_bytes};
    if (ioctl(worker->disk, keep_nothing ? BLKDISCARD : BLKZEROOUT, range)) {
        if (errno != EOPNOTSUPP) io_error(keep_nothing ? "discard" : "zero", "/dev/vda", worker->first + at);
        return;
    }
    for (uint64_t i = 0; i < count; i++) worker->generations[at + i] = keep_nothing ? unknown : zeroes;
}

static void *work(void *argument) {
    struct worker *worker = argument;
    unsigned char *buffer = aligned_alloc(block_bytes, run_blocks_max * block_bytes);
    uint32_t generation = 0;
    while (!stopped && !atomic_load(&failed)) {
        uint64_t dice = next_random(&worker->random) % 100;
        uint64_t count = 1 + next_random(&worker->random) % run_blocks_max;
        if (count > worker->blocks) count = worker->blocks;
        uint64_t at = next_random(&worker->random) % (worker->blocks - count + 1);
        if (dice < 50) {
            generation++;
            for (uint64_t i = 0; i < count; i++) {
                io_block(buffer + i * block_bytes, worker->first + at + i, generation);
                worker->generations[at + i] = generation;
            }
            ssize_t size = (ssize_t)(count * block_bytes);
            if (pwrite(worker->disk, buffer, (size_t)size, (off_t)((worker->first + at) * block_bytes)) != size)
                io_error("write", "/dev/vda", worker->first + at);
        } else if (dice < 94) {
            read_back(worker, buffer, at, count);
        } else if (dice < 97) {
            if (fsync(worker->disk)) io_error("flush", "/dev/vda", worker->first + at);
        } else {
            clear(worker, at, count, dice == 99);
        }
        atomic_fetch_add(&worker->operations, 1);
    }
    // Everything once more, so that a block nobody happened to read again is not missed.
    for (uint64_t at = 0; at < worker->blocks && !atomic_load(&failed); at += run_blocks_max) {
        uint64_t left = worker->blocks - at;
        read_back(worker, buffer, at, left < run_blocks_max ? left : run_blocks_max);
    }
    free(buffer);
    return NULL;
}

static int run_verified_io(void) {
    enum { workers_max = 16 };
    static struct worker workers[workers_max];
    uint64_t blocks, seconds = option("seconds", 0), jobs = option("jobs", 4), seed = option("seed", 1);
    int disk = open_disk("/dev/vda", O_DIRECT, &blocks);
    uint64_t used = option("mib", 64) * 256;
    if (used > blocks) used = blocks;
    if (jobs < 1 || jobs > workers_max) jobs = 4;
    for (uint64_t i = 0; i < jobs; i++) {
        struct worker *worker = &workers[i];
        worker->disk = disk;
        worker->blocks = used / jobs;
        worker->first = i * worker->blocks;
        worker->generations = calloc(worker->blocks, sizeof *worker->generations);
        worker->random = (seed * workers_max + i + 1) * 0x9e3779b97f4a7c15;
        pthread_create(&worker->thread, NULL, work, worker);
    }
    uint64_t operations = 0;
    for (uint64_t second = 0; !stopped && !atomic_load(&failed) && (!seconds || second < seconds); second++) {
        sleep_ms(1000);
        operations = 0;
        for (uint64_t i = 0; i < jobs; i++) operations += atomic_load(&workers[i].operations);
        say("ok %llu", (unsigned long long)operations);
    }
    stopped = 1;
    for (uint64_t i = 0; i < jobs; i++) pthread_join(workers[i].thread, NULL);
    if (fsync(disk)) io_error("flush", "/dev/vda", 0);
    say("finished %s %llu", atomic_load(&failed) ? "failed" : "ok", (unsigned long long)operations);
    return atomic_load(&failed);
}

// ---- the power button

static int run_power_button(void) {
    enum { inputs_max = 16 };
    struct pollfd inputs[inputs_max];
    nfds_t count = 0;
    glob_t found;
    if (!glob("/dev/input/event*", 0, NULL, &found))
        for (size_t i = 0; i < found.gl_pathc && count < inputs_max; i++) {
            int input = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
            if (input >= 0) inputs[count++] = (struct pollfd){.fd = input, .events = POLLIN};
        }
    // From here on no press is missed; whoever says "ready" waits for this file.
    close(open("/run/power-button", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (!count) {
        say("bygone-guest: no power button");
        return 1;
    }
    while (poll(inputs, count, -1) >= 0)
        for (nfds_t i = 0; i < count; i++) {
            struct input_event event;
            if (inputs[i].revents && read(inputs[i].fd, &event, sizeof event) == sizeof event &&
                event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                return 0;
        }
    return 1;
}

int main(int arguments, char **argument) {
    const struct {
        const char *name;
        int (*run)(void);
    } verbs[] = {
        {"counter", run_counter},         {"two-disks", run_two_disks},       {"ext4-counter", run_ext4_counter},
        {"verified-io", run_verified_io}, {"power-button", run_power_button},
    };
    for (size_t i = 0; arguments == 2 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(argument[1], verbs[i].name)) {
            // The power button has nothing to tidy up; the others finish what they are at.
            if (verbs[i].run != run_power_button)
                sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_stop}, NULL);
            signal(SIGHUP, SIG_IGN);
            return verbs[i].run();
        }
    fprintf(stderr, "verbs: counter, two-disks, ext4-counter, verified-io, power-button\n");
    return 2;
}
