# A boot sector that goes where a kernel goes (real, protected, long mode with paging), uses what kernels use
# there, works for a moment, and then ends QEMU with status 99 through isa-debug-exit at port 0xf4.
#
# Made from this, byte for byte (a test checks it where there is an assembler):
#     as --64 -o probe.o probe.S && ld -m elf_x86_64 -Ttext=0x7c00 --oformat binary -o probe.bin probe.o

        .set TABLES, 0x10000            # three pages: identity for the first 2 MiB
        .set CELL, 0x8000               # 16 bytes to exchange
        .set ROUNDS, 50000000           # some 20 ms on a processor, minutes where each instruction is emulated

        .code16
        .globl _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdt    gdtr
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $protected

        .code32
protected:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0x7000, %esp
        cld
        xorl    %eax, %eax
        movl    $CELL, %edi
        movl    $4, %ecx
        rep stosl
        movl    $TABLES, %edi
        movl    $(0x3000 / 4), %ecx
        rep stosl
        movl    $(TABLES + 0x1003), TABLES
        movl    $(TABLES + 0x2003), TABLES + 0x1000
        movl    $0x83, TABLES + 0x2000
        movl    %cr4, %eax
        orl     $0x220, %eax            # physical address extension, SSE state
        movl    %eax, %cr4
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER: long mode
        rdmsr
        orb     $1, %ah
        wrmsr
        movl    %cr0, %eax
        andb    $0xfb, %al              # no emulated floating point
        orl     $0x80000002, %eax       # paging
        movl    %eax, %cr0
        ljmpl   $24, $long

        .code64
long:   xorl    %eax, %eax              # what Linux's allocator does at every step
        xorl    %edx, %edx
        movl    $0x55, %ebx
        xorl    %ecx, %ecx
        lock cmpxchg16b CELL
        jne     failed
        movdqa  CELL, %xmm0
        movq    %xmm0, %rax
        cmpb    $0x55, %al
        jne     failed
        movl    $ROUNDS, %ecx
1:      decl    %ecx
        jnz     1b
        movb    $49, %al                # 2 * 49 + 1 = 99
        outb    %al, $0xf4
failed: hlt
        jmp     failed

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      #  8: code, 32 bit
        .quad   0x00cf93000000ffff      # 16: data
        .quad   0x00af9b000000ffff      # 24: code, 64 bit
gdtr:   .word   31
        .long   gdt
        .org    510
        .word   0xaa55
