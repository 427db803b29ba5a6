#include "cuda/choice/family.h"
#include "cuda/stepwise/stepwise.h"

#include <c10/util/Exception.h>

#include <cstdarg>
#include <cstdio>

namespace gru_ext {

std::optional<FwdResult> Kernel::run(const FwdCall&, const char*&) const {
  TORCH_INTERNAL_ASSERT(false, name(), " has no forward");
}

std::optional<BwdResult> Kernel::run(const BwdCall&, const char*&) const {
  TORCH_INTERNAL_ASSERT(false, name(), " has no backward");
}

std::string Kernel::why(const KernelQuery& query, const Candidate& candidate) const {
  return words("by the time model %.3g ms, stepwise %.3g ms", 1e3 * candidate.seconds, 1e3 * stepwise_seconds(query));
}

std::string Family::refusal(const KernelQuery& query, const WhyNot& why_not) const {
  return words("which cannot serve this call with H = %lld: ", static_cast<long long>(query.H)) + why_not.words();
}

std::string words(const char* format, ...) {
  char buffer[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

}  // namespace gru_ext
