// What nvcc puts into object files.
#include <cstdint>
#include <cstdlib>

#include "ptx.h"

namespace ptx {
namespace {

// The format is not documented: this much of it has been the same since CUDA 4. What is not as expected is an Error.
constexpr uint32_t kMagic = 0xBA55ED50;
constexpr uint16_t kPtx = 1;

struct Wrapper {
  uint32_t magic, version;
  const char* data;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // after the header
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;  // after the header
};

}  // namespace

std::vector<std::string> texts_of(const void* wrapper) {
  const char* const data = static_cast<const Wrapper*>(wrapper)->data;
  const auto* const header = reinterpret_cast<const Header*>(data);
  if (header->magic != kMagic) throw Error("no fat binary where one was expected");
  std::vector<std::string> texts;
  const char* at = data + header->header_bytes;
  const char* const end = at + header->bytes;
  while (at < end) {
    const auto* const entry = reinterpret_cast<const Entry*>(at);
    const char* const content = at + entry->header_bytes;
    if (entry->kind == kPtx) {
      const std::string text(content, entry->bytes);
      if (text.find(".version") == std::string::npos) throw Error("the PTX is compressed: nvcc needs --no-compress");
      texts.emplace_back(text.c_str());  // up to the padding
    }
    at = content + entry->bytes;
  }
  if (texts.empty()) throw Error("a fat binary without PTX: nvcc needs code=compute_*");
  return texts;
}

int target_of(const std::string& text) {
  const size_t at = text.find(".target sm_");
  if (at == std::string::npos) throw Error("PTX without a .target");
  return std::atoi(text.c_str() + at + 11);
}

}  // namespace ptx
