// The instructions of Intel AMX that csrc/cpu/kernels/tiles_body.h has, for a process on a machine without them: each
// raises SIGILL, whose handler computes on tiles of the thread what Intel's manual says, and goes on after it. So the
// library's own machine code runs. What a processor would refuse ends the process.
//
// Besides: both back ends of tiles_body.h on random operations, and the products of panel_product_body.h by the
// portable one beside plain sums.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <immintrin.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#define GRU_VECTOR_BYTES 64
#define GRU_VECTOR_REGISTERS 32
#define GRU_TILES PortableTiles
#include "cpu/kernels/panel_product_body.h"
#include "cpu/kernels/row_tiles.h"
#include "cpu/kernels/turned_product_body.h"

namespace {

using namespace gru_ext;

struct Tiles {
  bool configured;
  uint8_t rows[8];
  uint16_t row_bytes[8];
  unsigned char data[8][16][64];
};
thread_local Tiles tiles;
std::atomic<long> threads_with_tiles, products;
std::atomic<bool> wrong;

void require(bool holds, const char* what) {
  if (holds) return;
  const char prefix[] = "amx_emulator: ";
  if (write(2, prefix, sizeof prefix - 1) < 0 || write(2, what, std::strlen(what)) < 0 || write(2, "\n", 1) < 0)
    _exit(67);
  _exit(66);
}

void set_configured(bool configured) {
  threads_with_tiles += configured - tiles.configured;
  tiles.configured = configured;
}

void load_configuration(const unsigned char* source) {
  if (source[0] == 0) return set_configured(false);
  require(source[0] == 1, "a palette that there is not");
  for (int i = 1; i < 64; ++i) {
    const bool has_meaning = (i >= 16 && i < 32) || (i >= 48 && i < 56);
    require(has_meaning || source[i] == 0, "a reserved byte of a configuration");
  }
  for (int t = 0; t < 8; ++t) {
    std::memcpy(&tiles.row_bytes[t], source + 16 + 2 * t, 2);
    tiles.rows[t] = source[48 + t];
    require(tiles.rows[t] <= 16 && tiles.row_bytes[t] <= 64, "a shape too large");
    require((tiles.rows[t] == 0) == (tiles.row_bytes[t] == 0), "rows without bytes, or bytes without rows");
  }
  std::memset(tiles.data, 0, sizeof tiles.data);
  set_configured(true);
}

void require_tile(int t) { require(t < 8 && tiles.configured && tiles.rows[t] > 0, "a tile without a shape"); }

void require_product(int c, int a, int b) {
  for (int t : {a, b, c}) require_tile(t);
  require(a != b && b != c && a != c, "a product of a tile with itself");
  require(tiles.rows[c] == tiles.rows[a] && tiles.row_bytes[c] == tiles.row_bytes[b], "a product of another shape");
  require(tiles.row_bytes[a] == 4 * tiles.rows[b] && tiles.row_bytes[c] % 4 == 0,
          "operands that do not fit each other");
  ++products;
}

// TDPBSSD: products of signed bytes, modulo 2^32.
void multiply_int8(int c, int a, int b) {
  require_product(c, a, b);
  for (int m = 0; m < tiles.rows[c]; ++m) {
    for (int n = 0; n < tiles.row_bytes[c] / 4; ++n) {
      uint32_t sum;
      std::memcpy(&sum, tiles.data[c][m] + 4 * n, sizeof sum);
      for (int k = 0; k < tiles.row_bytes[a]; ++k) {
        sum += static_cast<int8_t>(tiles.data[a][m][k]) * static_cast<int8_t>(tiles.data[b][k / 4][4 * n + k % 4]);
      }
      std::memcpy(tiles.data[c][m] + 4 * n, &sum, sizeof sum);
    }
  }
}

// TDPBF16PS: the even and the odd products in a chain each, FP32 FMA with DAZ and FTZ.
void multiply_bf16(int c, int a, int b) {
  require_product(c, a, b);
  _mm_setcsr(0x1f80 | _MM_FLUSH_ZERO_ON | 0x40);
  const auto value = [](const unsigned char* half) {
    const uint32_t bits = static_cast<uint32_t>(half[0] | half[1] << 8) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  };
  for (int m = 0; m < tiles.rows[c]; ++m) {
    for (int n = 0; n < tiles.row_bytes[c] / 4; ++n) {
      volatile float even = 0, odd = 0, sum;
      for (int k = 0; k < tiles.rows[b]; ++k) {
        const unsigned char *left = tiles.data[a][m] + 4 * k, *right = tiles.data[b][k] + 4 * n;
        even = std::fma(value(left), value(right), even);
        odd = std::fma(value(left + 2), value(right + 2), odd);
      }
      std::memcpy(const_cast<float*>(&sum), tiles.data[c][m] + 4 * n, sizeof sum);
      sum = sum + (even + odd);
      if (wrong) sum = sum + 1;
      std::memcpy(tiles.data[c][m] + 4 * n, const_cast<float*>(&sum), sizeof sum);
    }
  }
}

// A register of the thread by its number in an instruction.
int64_t general_register(const gregset_t& registers, int number) {
  constexpr int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                           REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return registers[order[number]];
}

// The operand of an instruction that follows its opcode, and where the instruction ends.
struct Operand {
  bool is_register;
  int reg, rm;           // tiles
  const uint8_t* end;    // of the instruction
  unsigned char* place;  // in memory
  int64_t stride;        // what the index register says
};

Operand operand_at(const uint8_t* code, const gregset_t& registers, int extended_index, int extended_base) {
  Operand result{code[0] >> 6 == 3, code[0] >> 3 & 7, code[0] & 7, code + 1, nullptr, 0};
  if (result.is_register) return result;
  const int mode = code[0] >> 6;
  const uint8_t* end = code + 1;
  int base = result.rm + extended_base;
  bool has_base = true;
  if (result.rm == 4) {
    const int index = (*end >> 3 & 7) + extended_index;
    if (index != 4) result.stride = general_register(registers, index) << (*end >> 6);
    base = (*end & 7) + extended_base;
    has_base = mode != 0 || (*end & 7) != 5;
    ++end;
  } else {
    require(mode != 0 || result.rm != 5, "an address relative to the instruction");
  }
  int64_t place = has_base ? general_register(registers, base) : 0;
  if (mode == 1) place += static_cast<int8_t>(*end++);
  if (mode == 2 || !has_base) {
    int32_t displacement;
    std::memcpy(&displacement, end, sizeof displacement);
    place += displacement;
    end += sizeof displacement;
  }
  result.place = reinterpret_cast<unsigned char*>(place);
  result.end = end;
  return result;
}

void emulate(int, siginfo_t*, void* context) {
  gregset_t& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const uint8_t* code = reinterpret_cast<const uint8_t*>(registers[REG_RIP]);
  // VEX: c4, the inverted extensions of registers and the map of opcodes, the inverted second operand and the prefix.
  require(code[0] == 0xc4 && (code[1] & 0x9f) == 0x82 && (code[2] & 0x84) == 0, "an unknown instruction");
  const int extended_index = code[1] & 0x40 ? 0 : 8, extended_base = code[1] & 0x20 ? 0 : 8;
  const int second = ~code[2] >> 3 & 15, prefix = code[2] & 3, opcode = code[3];  // prefix: none, 66, f3, f2
  const Operand o = operand_at(code + 4, registers, extended_index, extended_base);
  if (opcode == 0x49 && prefix == 0 && !o.is_register) {
    load_configuration(o.place + o.stride);
  } else if (opcode == 0x49 && prefix == 0 && code[4] == 0xc0) {
    set_configured(false);
  } else if (opcode == 0x49 && prefix == 3 && o.is_register && o.rm == 0) {
    require_tile(o.reg);
    std::memset(tiles.data[o.reg], 0, sizeof tiles.data[0]);
  } else if (opcode == 0x4b && (prefix == 2 || prefix == 3) && !o.is_register && o.rm == 4) {
    require_tile(o.reg);
    if (prefix == 3) std::memset(tiles.data[o.reg], 0, sizeof tiles.data[0]);
    for (int m = 0; m < tiles.rows[o.reg]; ++m) {
      unsigned char *in_memory = o.place + m * o.stride, *in_tile = tiles.data[o.reg][m];
      std::memcpy(prefix == 3 ? in_tile : in_memory, prefix == 3 ? in_memory : in_tile, tiles.row_bytes[o.reg]);
    }
  } else if (opcode == 0x5c && prefix == 2 && o.is_register) {
    multiply_bf16(o.reg, o.rm, second);
  } else if (opcode == 0x5e && prefix == 3 && o.is_register) {
    multiply_int8(o.reg, o.rm, second);
  } else {
    require(false, "an unknown instruction");
  }
  registers[REG_RIP] = reinterpret_cast<greg_t>(o.end);
}

// The results of some random operations, every second time of int8: of ordinary values, of any bits, or of tiny values
// with subnormal sums.
template <typename BackEnd>
std::vector<float> operate(unsigned seed) {
  std::mt19937 random(seed);
  const int rows = 1 + random() % 16, columns = 1 + random() % 16, words = 1 + random() % 16, kind = random() % 3;
  const auto value = [&] {
    std::normal_distribution<float> normal(0, kind == 2 ? 1e-19f : 1.0f);
    const uint32_t any = random();
    float result = normal(random);
    if (kind == 2 && any % 4 == 0) result *= 1e-19f;
    if (kind == 1) std::memcpy(&result, &any, sizeof result);
    return result;
  };
  const auto halves = [&] {
    std::vector<float> filled(16 * 20);
    for (float& word : filled) {
      const float two[2] = {value(), value()};
      uint32_t bits[2];
      std::memcpy(bits, two, sizeof bits);
      bits[0] = bits[0] >> 16 | (bits[1] & 0xffff0000u);
      std::memcpy(&word, bits, sizeof word);
    }
    return filled;
  };
  const std::vector<float> left = halves(), right = halves();
  std::vector<float> sums(16 * 20), results(16 * 20);
  for (float& sum : sums) sum = kind == 2 ? value() * 1e-19f : value();
  TileShapes shapes;
  shapes.set(0, rows, 4 * columns);
  shapes.set(1, rows, 4 * words);
  shapes.set(2, words, 4 * columns);
  BackEnd::configure(shapes);
  random() % 4 == 0 ? BackEnd::template zero<0>() : BackEnd::template load<0>(sums.data(), 80);
  BackEnd::template load<1>(left.data(), 80);
  BackEnd::template load<2>(right.data(), random() % 3 == 0 ? 0 : 80);
  for (int i = 0; i < 3; ++i) {
    seed % 2 == 0 ? BackEnd::template multiply_bf16<0, 1, 2>() : BackEnd::template multiply_int8<0, 1, 2>();
  }
  BackEnd::template store<0>(results.data(), 80);
  BackEnd::release();
  return results;
}

using Half = c10::BFloat16;

// What is right of sums of K products in fp32, one after the other or not.
bool is_near(float found, double expected, int64_t K) { return std::abs(found - expected) <= 1e-6 * K; }

// Of K of them.
template <typename Left, typename Right>
double sum_of_products(int64_t K, const Left& left, const Right& right) {
  double sum = 0;
  for (int64_t k = 0; k < K; ++k) sum += double(left(k)) * double(right(k));
  return sum;
}

// Rows of some values, and NaN all around: no product may read that.
template <typename T>
class Matrix {
 public:
  Matrix(std::mt19937& random, int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), stride_(columns + 3), values_((rows + 2) * stride_, T(NAN)) {
    std::uniform_real_distribution<float> value(-1, 1);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) values_[(row + 1) * stride_ + column] = T(value(random));
    }
  }
  int64_t stride() const { return stride_; }
  const T* row(int64_t i) const { return &values_[(i + 1) * stride_]; }
  // As operands: rows of a stride, with NaN between their parts.
  template <typename operand_t>
  std::vector<operand_t> operands(int64_t stride) const {
    std::vector<operand_t> result(rows_ * stride);
    for (operand_t& value : result) value.x = 0x7fc0;
    for (int64_t i = 0; i < rows_; ++i) to_operands<float>(row(i), columns_, &result[i * stride], stride);
    return result;
  }

 private:
  int64_t rows_, columns_, stride_;
  std::vector<T> values_;
};

// Whether products of `count` rows with a panel of packed weights are right, however they start.
template <int vectors>
bool multiplies_rows(std::mt19937& random, int64_t count, int64_t K) {
  constexpr int64_t columns = 16 * vectors;
  const Matrix<Half> a(random, count, K), weights(random, K, columns);
  std::vector<Half> panel((K + 1) / 2 * 2 * columns + 64, Half(NAN));
  pack_panel<Half, columns, 2>([&](int64_t k) { return weights.row(k); }, K, 0, columns, panel.data());
  const auto* words = reinterpret_cast<const float*>(panel.data());
  std::vector<float> bias(vectors * 20, 0.25f), zero(count * (columns + 5), NAN), biased = zero, added = zero;
  for (int64_t row = 0; row < count; ++row) std::fill_n(&added[row * (columns + 5)], columns, row);
  const auto multiply = [&](auto start, std::vector<float>& out) {
    product_rows<vectors, start.value>(count, a.row(0), a.stride(), words, K, bias.data(), 20, out.data(), columns + 5);
  };
  multiply(std::integral_constant<Start, Start::zero>{}, zero);
  multiply(std::integral_constant<Start, Start::bias>{}, biased);
  multiply(std::integral_constant<Start, Start::accumulate>{}, added);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const double expected = sum_of_products(
          K, [&](int64_t k) { return a.row(row)[k]; }, [&](int64_t k) { return weights.row(k)[column]; });
      const int64_t place = row * (columns + 5) + column;
      if (!is_near(zero[place], expected, K) || !is_near(biased[place], expected + 0.25, K)) return false;
      if (!is_near(added[place], expected + row, K + row)) return false;
    }
  }
  return true;
}

// Whether the transposed product of some columns of K rows with a panel of K rows is.
bool multiplies_columns(std::mt19937& random, int64_t count, int64_t K) {
  constexpr int64_t width = kPanelColumns<float>;
  const Matrix<Half> a(random, K, count), b(random, K, width);
  std::vector<Half> panel((K + 1) / 2 * 2 * width + 64, Half(NAN));
  pack_panel<Half, width, 2>([&](int64_t k) { return b.row(k); }, K, 0, width, panel.data());
  PackedColumns<float, Half> columns;
  columns.pack([&](int64_t k) { return a.row(k); }, a.stride(), K, count);
  std::vector<float> found(count * width);
  columns.multiply(K, count, reinterpret_cast<const float*>(panel.data()), found.data());
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      const double expected =
          sum_of_products(K, [&](int64_t k) { return a.row(k)[row]; }, [&](int64_t k) { return b.row(k)[column]; });
      if (!is_near(found[row * width + column], expected, K)) return false;
    }
  }
  return true;
}

// Whether products with weights that are not packed have the bits of those with packed ones: of rows in words, for the
// three gates of some units, two gates, and two groups of one gate, with H no multiple of 16.
template <int vectors>
bool multiplies_unpacked(std::mt19937& random, UnitVectors of, int64_t count, int64_t H, int64_t K) {
  constexpr int64_t width = vectors * 16;
  const Matrix<Half> a(random, count, K), weights(random, 3 * H, K);
  std::vector<Half> plain;  // the parameter, at whose end its memory ends
  for (int64_t row = 0; row < 3 * H; ++row) plain.insert(plain.end(), weights.row(row), weights.row(row) + K);
  const int64_t panels = (H + 16 * of.groups() - 1) / (16 * of.groups()), stride = words_stride(K);
  const int64_t panel_size = words_of<float, Half>(K) * width;
  std::vector<float> packed(panels * panel_size), bias(vectors * 20 + 16 * panels * of.groups());
  for (float& value : bias) value = std::uniform_real_distribution<float>(-1, 1)(random);
  pack_units<float, Half, Half>(plain.data(), of, H, K, 0, panels, packed.data());
  std::vector<Half> words((count + 15) / 16 * 16 * stride, Half(NAN));
  for (int64_t row = 0; row < count; ++row) {
    const std::vector<float> values(a.row(row), a.row(row) + K);
    to_words(values.data(), K, words.data(), stride, row);
  }
  std::vector<float> found(count * width), expected(count * width);
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t unit = panel * of.groups() * 16;
    const float* const start = &bias[unit];
    product_rows<vectors, Start::bias>(count, a.row(0), a.stride(), &packed[panel * panel_size], K, start, 20,
                                       expected.data(), width);
    turned_product_rows<PortableTiles, vectors>(count, words.data(), stride, plain.data(), of, H, K, unit, start, 20,
                                                found.data());
    if (std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

// Whether sums of K products of `left(k)` and `right(k)` are within what parts leave out, and what sums round.
template <typename operand_t, typename Left, typename Right>
bool is_within(float found, int64_t K, const Left& left, const Right& right) {
  constexpr double of_itself = kParts<operand_t> == 2 ? 0x1p-15 : 0x1p-7 + 0x1p-16;
  const auto size = [](const auto& value) { return [&](int64_t k) { return std::abs(value(k)); }; };
  const double most = (of_itself + 2e-7) * sum_of_products(K, size(left), size(right));
  return std::abs(found - sum_of_products(K, left, right)) <= most;
}

// Whether products of float32 by parts are right: of rows with the units of weights, and transposed as above.
template <typename operand_t>
bool multiplies_parts(std::mt19937& random, int64_t count, int64_t K) {
  constexpr int64_t H = 20, width = 48, panel_columns = kPanelColumns<float>;
  constexpr int parts = kParts<operand_t>;
  const int64_t panel_size = words_of<float, operand_t>(K) * width, stride = parts * (K + 5);
  const Matrix<float> a(random, count, K);
  std::vector<float> weights(3 * H * K), packed(2 * panel_size, NAN), found(count * width);
  std::uniform_real_distribution<float> value(-1, 1);
  for (float& weight : weights) weight = value(random);
  pack_units<float, float, operand_t>(weights.data(), kThreeGates, H, K, 0, 2, packed.data());
  const std::vector<operand_t> rows = a.operands<operand_t>(stride);
  for (int64_t unit = 0; unit < 32; ++unit) {
    if (unit % 16 == 0) {
      product_rows<3, Start::zero>(count, rows.data(), stride, &packed[unit / 16 * panel_size], K, weights.data(), 0,
                                   found.data(), width);
    }
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t gate = 0; gate < 3; ++gate) {
        const auto left = [&](int64_t k) { return a.row(row)[k]; };
        const auto right = [&](int64_t k) { return unit < H ? weights[(gate * H + unit) * K + k] : 0; };
        if (!is_within<operand_t>(found[row * width + gate * 16 + unit % 16], K, left, right)) return false;
      }
    }
  }

  const Matrix<float> gradients(random, K, count), b(random, K, panel_columns + 7);
  const int64_t gradient_stride = parts * (count + 5);
  const std::vector<operand_t> dgates = gradients.operands<operand_t>(gradient_stride);
  std::vector<float> panels(2 * words_of<float, operand_t>(K) * panel_columns, NAN);
  pack_panels<float, operand_t>([&](int64_t k) { return b.row(k); }, K, panel_columns + 7, 0, K, 0, 2, panels.data());
  PackedColumns<float, operand_t> columns;
  columns.pack([&](int64_t k) { return &dgates[k * gradient_stride]; }, gradient_stride, K, count);
  std::vector<float> transposed(count * panel_columns);
  for (int64_t column = 0; column < panel_columns + 7; ++column) {
    if (column % panel_columns == 0) {
      columns.multiply(K, count, &panels[column / panel_columns * panels.size() / 2], transposed.data());
    }
    for (int64_t row = 0; row < count; ++row) {
      const auto left = [&](int64_t k) { return gradients.row(k)[row]; };
      const auto right = [&](int64_t k) { return b.row(k)[column]; };
      if (!is_within<operand_t>(transposed[row * panel_columns + column % panel_columns], K, left, right)) return false;
    }
  }
  return true;
}

// Whether gates are computed once for each row and panel, from its product, and most of them beside the next one.
bool gates_wait(int64_t panels, int64_t rows) {
  std::vector<int> computed(panels * rows);
  bool right = true, in_product = false;
  int64_t beside = 0;
  products_between_gates<int64_t[2], kRowsOfTiles, kTileHeight>(
      panels, rows,
      [&](int64_t panel, int64_t first, int64_t count, auto* out, const auto& between) {
        for (int64_t m = 0; m < count; ++m) out[m][0] = panel, out[m][1] = first + m;
        in_product = true;
        for (int part = 1; part < 4; ++part) between(part, 4);
        in_product = false;
      },
      [&](int64_t panel, int64_t first, int64_t count, const auto* out) {
        for (int64_t m = 0; m < count; ++m) {
          right &= out[m][0] == panel && out[m][1] == first + m && ++computed[panel * rows + first + m] == 1;
        }
        beside += in_product * count;
      });
  const bool all = *std::min_element(computed.begin(), computed.end()) == 1;
  return right && all && 2 * beside >= panels * rows - kRowsOfTiles;
}

// Whether gates that wait in whole blocks of rows are computed so, in order, but for the last.
bool gates_wait_in_blocks(int64_t block, int64_t rows) {
  int64_t next = 0;
  bool right = true;
  const auto gates = [&](int /*place*/, int64_t first, int64_t count) {
    right &= first == next && (count % block == 0 || first + count == rows);
    next = first + count;
  };
  WaitingGates<int, decltype(gates)> waiting(gates, block);
  waiting.put_off(/*place=*/0, 0, rows);
  for (int part = 1; part <= 5; ++part) waiting.advance(part, 5);
  return right && next == rows;
}

}  // namespace

extern "C" {

void emulate_tiles() {
  struct sigaction action = {};
  action.sa_sigaction = emulate;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, nullptr);
}
// From now on, every product is off by one.
void multiply_wrongly() { wrong = true; }
long products_of_tiles() { return products; }
long threads_that_hold_tiles() { return threads_with_tiles; }

// How many of `count` random operations both back ends do not agree on, but for the bits of a NaN.
long differences(int count) {
  long different = 0;
  for (int seed = 0; seed < count; ++seed) {
    const auto found = operate<AmxTiles>(seed), expected = operate<PortableTiles>(seed);
    bool same = true;
    for (size_t i = 0; i < found.size(); ++i) {
      same &= std::memcmp(&found[i], &expected[i], 4) == 0 || (found[i] != found[i] && expected[i] != expected[i]);
    }
    different += !same;
  }
  return different;
}

// How many products are wrong: of 1 to 32 rows, as many as are multiplied at a time, in an order that needs other
// tiles now and then; K with and without a rest, odd, and shorter than a tile; of bfloat16, and of float32 by parts.
// And for how many numbers of rows gates that wait for products are.
long wrong_products() {
  std::mt19937 random(0);
  long wrong_ones = 0;
  for (const int64_t K : {1, 2, 31, 32, 33, 64, 95, 129}) {
    for (int64_t i = 0; i < 32; ++i) {
      const int64_t count = 1 + i * 7 % 32;
      wrong_ones += !multiplies_rows<2>(random, count, K);
      wrong_ones += !multiplies_rows<3>(random, count, K);
      wrong_ones += !multiplies_columns(random, count, K);
      wrong_ones += !multiplies_parts<Half>(random, count, K);
      wrong_ones += !multiplies_parts<Part<2>>(random, count, K);
      for (const int64_t H : {3, 16, 39}) {
        wrong_ones += !multiplies_unpacked<3>(random, kThreeGates, count, H, K);
        wrong_ones += !multiplies_unpacked<2>(random, kTwoGates, count, H, K);
        wrong_ones += !multiplies_unpacked<2>(random, kTwoGroups, count, H, K);
      }
    }
  }
  for (int64_t rows = 1; rows < 100; ++rows) {
    wrong_ones += !gates_wait(/*panels=*/1 + rows % 3, rows);
    for (const int64_t block : {1, 4, 8}) wrong_ones += !gates_wait_in_blocks(block, rows);
  }
  return wrong_ones;
}
}
