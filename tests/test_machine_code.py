"""What ``make cuda-check`` finds in the machine code of kernels."""

from __future__ import annotations

import pytest
from machine_code import Instruction, read, serial_loads, step_loop

# From a kernel whose step loop ends at 0xde70: a pair of 16-bit values is loaded as one word, past barrier 5, or as two
# halves, past barrier 2, which the PRMT at 0x9ae0 waits for at once.
LISTING = """\

	code for sm_90
		Function : gru_kernel
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*9a50*/              @!P3 BRA 0x9af0 ;                                      /* 0x000000000024b947 */
                                                                                     /* 0x000ff00003800000 */
        /*9a60*/                   ISETP.NE.AND P5, PT, RZ, UR5, PT ;                /* 0x00000005ff007c0c */
                                                                                     /* 0x000fda000bfa5270 */
        /*9a70*/              @!P5 BRA 0x9aa0 ;                                      /* 0x000000000008d947 */
                                                                                     /* 0x000fea0003800000 */
        /*9a80*/                   LDG.E R195, desc[UR6][R30.64] ;                   /* 0x000000061ec37981 */
                                                                                     /* 0x000362000c1e1900 */
        /*9a90*/                   BRA 0x9af0 ;                                      /* 0x0000000000147947 */
                                                                                     /* 0x000fea0003800000 */
        /*9aa0*/                   ISETP.GE.U32.AND P5, PT, R184, 0x2, PT ;          /* 0x00000002b800780c */
                                                                                     /* 0x000fe20003fa6070 */
        /*9ab0*/                   LDG.E.U16 R176, desc[UR6][R30.64] ;               /* 0x000000061eb07981 */
                                                                                     /* 0x000ea2000c1e1500 */
        /*9ac0*/                   PRMT R195, RZ, 0x7610, R195 ;                     /* 0x00007610ffc37816 */
                                                                                     /* 0x000fd600000000c3 */
        /*9ad0*/               @P5 LDG.E.U16 R195, desc[UR6][R30.64+0x2] ;           /* 0x000002061ec35981 */
                                                                                     /* 0x000ea4000c1e1500 */
        /*9ae0*/                   PRMT R195, R176, 0x5410, R195 ;                   /* 0x00005410b0c37816 */
                                                                                     /* 0x004fce00000000c3 */
        /*9af0*/                   BSYNC B0 ;                                        /* 0x0000000000007941 */
                                                                                     /* 0x000fea0003800000 */
        /*9b00*/                   LEA R176, P5, R185.reuse, R30, 0x1 ;              /* 0x0000001eb9b07211 */
                                                                                     /* 0x040fe200078a08ff */
        /*de70*/              @!P3 BRA 0x97e0 ;                                      /* 0xffffffb80058b947 */
                                                                                     /* 0x000fec000383ffff */
"""


def code_of(listing: str) -> list[Instruction]:
    (kernel,) = read(listing.splitlines())
    return kernel.code


def with_control(listing: str, address: int, control: int) -> str:
    """The listing with another upper half of the encoding of the instruction at that address."""
    lines = listing.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.lstrip().startswith(f"/*{address:04x}*/"))
    lines[place + 1] = f"  /* {control:#018x} */"
    return "\n".join(lines)


def test_a_listing_is_read() -> None:
    (kernel,) = read(LISTING.splitlines())
    assert (kernel.kernel, kernel.architecture, len(kernel.code)) == ("gru_kernel", "sm_90", 13)
    load, use = kernel.code[8:10]
    assert load[:4] == (0x9AD0, "@P5", "LDG.E.U16", "R195, desc[UR6][R30.64+0x2]")
    assert load.released == 2
    assert use.waits_for(2)
    assert not use.waits_for(5)
    assert step_loop(kernel.code) == (0x97E0, 0xDE70)


def test_two_kernels_and_architectures_are_told_apart() -> None:
    other = LISTING.replace("sm_90", "sm_100").replace("gru_kernel", "other_kernel")
    found = [kernel[:2] for kernel in read((LISTING + other).splitlines())]
    assert found == [("gru_kernel", "sm_90"), ("other_kernel", "sm_100")]


def test_a_listing_that_is_cut_off_is_an_error() -> None:
    first, second, *_ = (line for line in LISTING.splitlines() if "/*" in line and "*/   " in line)
    with pytest.raises(ValueError, match="upper half"):
        list(read([first, second]))


def test_a_load_that_the_next_instruction_waits_for_is_found() -> None:
    assert serial_loads(code_of(LISTING)) == ["LDG.E.U16 at 0x9ad0, waited for by PRMT"]


def test_a_wait_behind_branches_is_found() -> None:
    """Between the word of 0x9a80 and the LEA, which here waits for it, stand a branch and the meeting of the paths."""
    planted = with_control(LISTING, 0x9B00, 0x040FE200078A08FF | 1 << 52 + 5)
    assert serial_loads(code_of(planted)) == [
        "LDG.E at 0x9a80, waited for by LEA",
        "LDG.E.U16 at 0x9ad0, waited for by PRMT",
    ]


@pytest.mark.parametrize(
    "listing",
    [
        pytest.param(with_control(LISTING, 0x9AE0, 0x000FCE00000000C3), id="the next instruction does not wait"),
        pytest.param(LISTING.replace("LDG.E.U16", "LDG.E.U16.STRONG.GPU"), id="it polls"),
        pytest.param(LISTING.replace("0x97e0", "0x9ae0"), id="it is not in the loop"),
    ],
)
def test_other_loads_pass(listing: str) -> None:
    assert serial_loads(code_of(listing)) == []
